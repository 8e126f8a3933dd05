"""Simple preference optimisation: the better answer is to be likelier per token, by a margin (Meng, Xia and Chen, arXiv 2405.14734).

    loss = -log sigmoid(beta (log p(chosen) / |chosen| - log p(rejected) / |rejected|) - margin)            eq. 6 there

No reference; the reward is the very likelihood by which answers are written, so long answers are not favoured.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from luthier.core.sequence import Per
from luthier.core.spec import Strict
from luthier.models.predictor import Meaning
from luthier.objectives._forest import Forest
from luthier.objectives._pairs import means


class Options(Strict):
    """Settings of SimPO."""

    beta: float = Field(2.0, gt=0, le=100)
    """How steeply the loss falls with the gap; the paper takes 2 to 2.5."""
    margin: float = Field(1.0, ge=0, le=100)
    """By how much the better answer is to be ahead, beta times nats per token (gamma); half of beta is the paper's first try."""


class Objective:
    """SimPO over pairs; a step's loss is the mean over its pairs."""

    learn: str | None = None
    pairs = True
    reads = frozenset({"pairs"})
    needs: frozenset[str] = frozenset({"next-token"})
    supports: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    meaning: Meaning | None = None
    per: Per = "row"
    rate = 0.1
    """The paper takes 3e-7 to 1e-6 for full tuning, a twentieth of supervised recipes; without a reference more moves too far."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def loss(self, forest: Forest) -> Tensor:
        """Sum over the pairs of a forest."""
        chosen_P, rejected_P = means(forest, forest.logprobs())
        return -F.logsigmoid(self.options.beta * (chosen_P - rejected_P) - self.options.margin).sum()
