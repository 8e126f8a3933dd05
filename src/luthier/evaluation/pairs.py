"""Pairs of answers: does a model find the better one likelier, and has tuning moved it that way?

* **pair accuracy**: share of the pairs whose better answer is likelier as a whole. Longer answers are less likely, whoever asks.
* **reward accuracy**: share whose better answer *became* likelier than the worse one did: ``D = [log p(c) - log p_base(c)] - [log p(r)
  - log p_base(r)] > 0``, the reward of DPO (arXiv 2305.18290, section 4). The base itself has D = 0 everywhere: a coin, half of each pair.
* **reward margin**: the mean of D in nats (times beta it is what preference trainers print).

Of a single answer that is judged, D is its own part of the formula: a good one is to become likelier, a bad one less likely.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from luthier.evaluation.likelihood import Likelihood
from luthier.evaluation.verdict import Verdict, verdict

NAME = "reward_accuracy"
"""The number a preference run is judged by."""

WHY = "the rows say which answers are good; the base is a coin that gets half of them"


def measures(base: Likelihood, tuned: Likelihood, *, resamples: int) -> dict[str, Verdict]:
    """All three over the rows whose answers are compared or judged; nothing where none is."""
    sided, pairs = base.sides_R > 0, base.sides_R == 2
    if not sided.any():
        return {}
    gained = (tuned.margin_R - base.margin_R)[sided]
    found = {
        NAME: verdict(
            np.full(len(gained), 0.5),
            _won(gained),
            metric="reward accuracy",
            unit="points of reward accuracy",
            scale=100.0,
            resamples=resamples,
        ),
        "reward_margin": verdict(np.zeros(len(gained)), gained, metric="reward margin", unit="nats", resamples=resamples),
    }
    if pairs.any():
        left, right = _won(base.margin_R[pairs]), _won(tuned.margin_R[pairs])
        unit = "points of pair accuracy"
        found["pair_accuracy"] = verdict(left, right, metric="pair accuracy", unit=unit, scale=100.0, resamples=resamples)
    return found


def _won(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for a pair won, 0 for one lost, a half for a tie."""
    found: NDArray[np.float64] = (1 + np.sign(margin)) / 2
    return found
