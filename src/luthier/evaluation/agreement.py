"""How well what a head says agrees with what is right, by the kind of head. R rows, C classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.evaluation.spans import spans
from luthier.evaluation.verdict import Statistic
from luthier.models.predictor import Kind

Counts = NDArray[np.float64]
"""``[3, R, C]``: what is right and said, what is right, what is said."""


@dataclass(frozen=True)
class Agreement:
    """One number.

    Attributes:
        name, title, unit, scale, higher_is_better: as those of a metric (``evaluation/metrics``).
        row: score of one row, from what is right and what was said; its mean is the number.
        counts: of all rows, where the number is an F1; `macro` averages over classes, else all are one.
    """

    name: str
    title: str
    unit: str
    scale: float = 100.0
    higher_is_better: bool = True
    row: Callable[[Any, Any], float] | None = None
    counts: Callable[[list[Any], list[Any]], Counts] | None = None
    macro: bool = True

    def statistic(self, right: list[Any], base: list[Any], tuned: list[Any]) -> Statistic:
        """The F1 of base and of tuned, over any rows."""
        assert self.counts is not None
        both = [self.counts(right, said) for said in (base, tuned)]

        def of(rows: NDArray[np.int64]) -> tuple[float, float]:
            weight_R = np.bincount(rows, minlength=len(right)).astype(np.float64)
            left, other = (self.scale * f1(np.einsum("r,krc->kc", weight_R, counts), macro=self.macro) for counts in both)
            return left, other

        return of


def f1(sums_3C: Counts, *, macro: bool) -> float:
    """``2 both / (right + said)``, the mean over the classes that occur or are said; or of all together."""
    both, right, said = sums_3C if macro else sums_3C.sum(1, keepdims=True)
    seen = right + said > 0
    return float((2 * both[seen] / (right + said)[seen]).mean()) if seen.any() else 0.0


def agreement(kind: Kind, labels: tuple[str, ...] = ()) -> list[Agreement]:
    """The numbers of a kind, the one that decides first.

    Args:
        labels: all of them, in order.
    """
    accuracy = Agreement("accuracy", "accuracy", "points of accuracy", row=lambda right, said: float(right == said))
    macro = Agreement("macro_f1", "macro F1", "points of macro F1", counts=lambda right, said: _counts(right, said, labels))
    place = {label: i for i, label in enumerate(labels)}
    return {
        "class": [accuracy, macro],
        "labels": [Agreement("accuracy", "accuracy", "points of accuracy", row=lambda right, said: float(set(right) == set(said))), macro],
        "ordinal": [accuracy, _distance("steps", "mean error in steps", "steps", lambda right, said: abs(place[right] - place[said]))],
        "number": [_distance("error", "mean absolute error", "of it", lambda right, said: abs(right - said))],
        "tags": [
            Agreement("span_f1", "span F1", "points of span F1", counts=_span_counts, macro=False),
            Agreement("word_accuracy", "word accuracy", "points of word accuracy", row=_words),
        ],
        "ranking": [Agreement("pair_accuracy", "pair accuracy", "points of pair accuracy", row=lambda _, said: float(said))],
    }[kind]


def _distance(name: str, title: str, unit: str, row: Callable[[Any, Any], float]) -> Agreement:
    return Agreement(name, title, unit, scale=1.0, higher_is_better=False, row=row)


def _words(right: list[str], said: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(right, said, strict=True)])) if right else 1.0


def _counts(right: list[Any], said: list[Any], labels: tuple[str, ...]) -> Counts:
    place = {label: i for i, label in enumerate(labels)}
    found = np.zeros((2, len(right), len(labels)))
    for side, several in enumerate((right, said)):
        for row, answer in enumerate(several):
            for label in answer if isinstance(answer, list) else [answer]:
                if label in place:  # a base may say nothing that is a label
                    found[side, row, place[label]] = 1
    return np.stack([found[0] * found[1], found[0], found[1]])


def _span_counts(right: list[Any], said: list[Any]) -> Counts:
    found = np.zeros((3, len(right), 1))
    for row, (a, b) in enumerate(zip(map(spans, right), map(spans, said), strict=True)):
        found[:, row, 0] = len(a & b), len(a), len(b)
    return found
