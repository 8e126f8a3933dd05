"""Odds ratio preference optimisation: learn the better answer, and push its odds above those of the worse one, in one go (Hong, Lee and
Thorne, arXiv 2403.07691).

    P(y)   = exp(mean log-probability of the tokens of y)         eq. 3 there: the answer's likelihood, per token
    odds   = P / (1 - P)                                          eq. 4
    loss   = -log P(chosen) - strength * log sigmoid(log odds(chosen) / odds(rejected))       eq. 6 and 7

No reference: the supervised part keeps the model where answers are good.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.core.sequence import Per
from luthier.core.spec import Strict
from luthier.models.predictor import Meaning
from luthier.objectives._forest import Forest
from luthier.objectives._pairs import means


class Options(Strict):
    """Settings of ORPO."""

    strength: float = Field(0.1, gt=0, le=10)
    """How much the odds count beside the better answer itself (lambda)."""


class Objective:
    """ORPO over pairs; a step's loss is the mean over its pairs."""

    learn: str | None = None
    pairs = True
    reads = frozenset({"pairs"})
    needs: frozenset[str] = frozenset({"next-token"})
    supports: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    meaning: Meaning | None = None
    per: Per = "row"
    rate = 0.3
    """The paper takes 8e-6 for full tuning where supervised recipes take 2e-5."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def loss(self, forest: Forest) -> Tensor:
        """Sum over the pairs of a forest."""
        chosen_P, rejected_P = means(forest, forest.logprobs())
        odds_P = (chosen_P - rejected_P) - (_log_of_rest(chosen_P) - _log_of_rest(rejected_P))
        return -(chosen_P + self.options.strength * F.logsigmoid(odds_P)).sum()


def _log_of_rest(x_P: Tensor) -> Tensor:
    """``log(1 - exp(x))`` for x < 0, without cancellation near 0 (Maechler, "Accurately computing log(1 - exp(-|a|))", 2012)."""
    x_P = x_P.clamp(max=-1e-7)  # a probability of one has no odds
    return torch.where(x_P > -math.log(2), torch.log(-torch.expm1(x_P)), torch.log1p(-torch.exp(x_P)))
