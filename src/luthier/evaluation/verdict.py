"""The verdict: is tuned better than base, by how much, and how sure is that?

Both models answered the same rows, so what is resampled is the row with both its scores (paired bootstrap, Efron 1979). The interval is
BCa - bias-corrected and accelerated (Efron 1987, doi:10.1080/01621459.1987.10478410) - because differences of accuracy near 0 or 1 are
skewed, where the plain percentile interval covers too little. scipy computes it.

Two things a bootstrap cannot know are added. When no row differs there is nothing to resample: no difference is shown. And when fewer
than six rows differ, even if all agree, the two-sided sign test stays above 5% (2 x 0.5^5 = 6.2%), so nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Statistic = Callable[[NDArray[np.int64]], tuple[float, float]]

FEWEST_DIFFERING = 6
SMALL = 30
"""Below this many rows a bootstrap interval is known to be too narrow; said in the verdict."""


@dataclass(frozen=True)
class Verdict:
    """One comparison, in one sentence and in numbers.

    Attributes:
        sentence: what a person reads.
        better: who wins beyond chance; ``none`` when no difference is shown.
        metric: what was compared. unit: what `difference`, `low`, `high`, `base`, `tuned` are counted in.
        difference: tuned minus base; low, high: its 95% interval.
        base, tuned: the two means. n: rows compared.
        warning: why the interval should be read with care; empty when there is no reason.
    """

    sentence: str
    better: Literal["tuned", "base", "none"]
    metric: str
    unit: str
    difference: float
    low: float
    high: float
    base: float
    tuned: float
    n: int
    higher_is_better: bool = True
    warning: str = ""

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain fields."""
        return asdict(self)


@dataclass(frozen=True)
class Interval:
    """A paired difference (tuned minus base) with its 95% interval."""

    difference: float
    low: float
    high: float
    differing: int


def paired(base: ArrayLike, tuned: ArrayLike, *, weights: ArrayLike | None = None, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean difference over rows and its 95% BCa interval.

    Args:
        weights: size of each row; the difference is then ``sum(w * d) / sum(w)``, as for bits per byte (w = bytes of the row).
    """
    differences = np.asarray(tuned, float) - np.asarray(base, float)
    weight = np.ones_like(differences) if weights is None else np.asarray(weights, float)
    if not len(differences):
        return Interval(0.0, 0.0, 0.0, 0)
    mean = float(_mean(differences, weight))
    differing = int(np.count_nonzero(differences))
    if len(differences) < 2 or np.ptp(differences) == 0:
        return Interval(mean, mean, mean, differing)  # nothing varies: BCa is undefined, the interval is a point
    from scipy.stats import bootstrap  # here: a third of a second that a run need not wait for before its first step

    for method in ("BCa", "percentile"):  # BCa is undefined for some lopsided differences; the plain interval always exists
        found = bootstrap(
            (differences, weight), _mean, paired=True, n_resamples=resamples, batch=200, method=method, rng=np.random.default_rng(seed)
        ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            break
    return Interval(mean, float(found.low), float(found.high), differing)


def _mean(differences: NDArray[np.float64], weight: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    result: NDArray[np.float64] = (differences * weight).sum(axis) / weight.sum(axis)
    return result


def verdict(
    base: ArrayLike,
    tuned: ArrayLike,
    *,
    metric: str = "score",
    unit: str = "",
    scale: float = 1.0,
    higher_is_better: bool = True,
    weights: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Verdict:
    """Compare the scores of base and tuned on the same rows, in the same order.

    Args:
        base, tuned: one score per row. scale: factor from a score to `unit` (100 for points of a share).
        metric: name for sentences, "label accuracy". unit: "points of label accuracy"; the metric's name when left out.
        weights: size of each row, see `paired`.
    """
    base, tuned = np.asarray(base, float) * scale, np.asarray(tuned, float) * scale
    if base.shape != tuned.shape:
        raise ValueError(f"{len(base)} scores of base against {len(tuned)} of tuned: a paired comparison needs the same rows")
    interval = paired(base, tuned, weights=weights, resamples=resamples, seed=seed)
    weight = np.ones_like(base) if weights is None else np.asarray(weights, float)
    means = [float(_mean(scores, weight)) if len(base) else 0.0 for scores in (base, tuned)]
    return concluded(interval, (means[0], means[1]), len(base), metric=metric, unit=unit or metric, higher_is_better=higher_is_better)


def concluded(interval: Interval, means: tuple[float, float], n: int, *, metric: str, unit: str, higher_is_better: bool = True) -> Verdict:
    """What an interval over `n` rows says; `means` are those of base and tuned."""
    better = _better(interval, n, higher_is_better=higher_is_better)
    return Verdict(
        sentence=_sentence(better, interval, n, metric=metric, unit=unit, higher_is_better=higher_is_better),
        better=better,
        metric=metric,
        unit=unit,
        difference=interval.difference,
        low=interval.low,
        high=interval.high,
        base=means[0],
        tuned=means[1],
        n=n,
        higher_is_better=higher_is_better,
        warning=_warning(n),
    )


def resampled(
    statistic: Statistic, rows: int, differing: int, *, resamples: int = 2000, seed: int = 0
) -> tuple[Interval, tuple[float, float]]:
    """Base and tuned under a number that is no mean over rows (macro F1), and the 95% percentile interval of their difference.

    Args:
        statistic: base and tuned, from the numbers of some rows, with repetitions.
        differing: rows on which base and tuned differ.
    """
    base, tuned = statistic(np.arange(rows)) if rows else (0.0, 0.0)
    if rows < 2 or not differing:
        return Interval(tuned - base, tuned - base, tuned - base, differing), (base, tuned)
    dice = np.random.default_rng(seed)
    differences = [right - left for left, right in (statistic(dice.integers(0, rows, rows)) for _ in range(resamples))]
    low, high = np.percentile(differences, [2.5, 97.5])
    return Interval(tuned - base, float(low), float(high), differing), (base, tuned)


def _better(interval: Interval, n: int, *, higher_is_better: bool) -> Literal["tuned", "base", "none"]:
    if n < 2 or interval.differing < FEWEST_DIFFERING or interval.low <= 0 <= interval.high:
        return "none"
    return "tuned" if (interval.low > 0) == higher_is_better else "base"


def _sentence(better: str, interval: Interval, n: int, *, metric: str, unit: str, higher_is_better: bool) -> str:
    if n < 2:
        return f"Nothing can be said about {metric}: {n} row{'' if n == 1 else 's'} compared, at least {FEWEST_DIFFERING} are needed."
    if better != "none":
        sign = 1 if interval.low > 0 else -1
        low, high = sorted((sign * interval.low, sign * interval.high))
        word = "better" if better == "tuned" else "worse"
        return f"Tuned is {word} by {_number(abs(interval.difference))} {unit} (95% interval {_number(low)} to {_number(high)}, n={n})."
    if interval.differing == 0:
        return f"No difference shown in {metric}: base and tuned score the same on each of {n} rows."
    if interval.differing < FEWEST_DIFFERING:
        return f"No difference shown in {metric}: only {interval.differing} of {n} rows differ, fewer than chance can be told from."
    span = f"95% interval {_number(interval.low, signed=True)} to {_number(interval.high, signed=True)}, n={n}"
    return f"No difference shown in {metric}: tuned minus base is {_number(interval.difference, signed=True)} {unit} ({span})."


def _number(value: float, *, signed: bool = False) -> str:
    """One decimal from 1 up, three significant places below: 12.4, 0.083."""
    text = f"{value:.1f}" if abs(value) >= 1 or value == 0 else f"{value:.3f}"
    return f"+{text}" if signed and value > 0 else text


def _warning(n: int) -> str:
    if n >= SMALL:
        return ""
    return f"Only {n} row{'' if n == 1 else 's'}: with fewer than {SMALL} the interval is narrower than the truth. Hold out more rows."
