"""Supervised fine-tuning: the next token of what the rows say is learned.

``loss = -sum_n w_n log p(target_n | path to row_n)``; the step's mean divides by ``sum_n w_n`` over all its rows, so it is the same
for 8 rows at once and 8 times one row.

Against forgetting, a share of other rows is mixed in (`replay`), and a leash holds the model near its base: ``+ leash sum_n w_n
KL(base || model)_n``, as in "Learning without forgetting" (Li and Hoiem, arXiv 1606.09282, eq. 1 and 2).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from luthier.core.sequence import Per
from luthier.core.spec import Strict
from luthier.models.predictor import Meaning
from luthier.objectives._forest import Forest
from luthier.objectives._teacher import TOP, divergence


class Options(Strict):
    """Settings of supervised tuning; `data.learn` and per-message weights decide what is learned."""

    replay: str = ""
    """A file of rows of what must not be forgotten, mixed in and learned alike; never held out."""
    replay_share: float = Field(0.2, gt=0, le=0.9)
    """Share of such rows among all that are learned."""
    leash: float = Field(0.0, ge=0, le=100)
    """How strongly every learned token is held near what the base thinks of it."""


class Objective:
    """Next-token loss on the learned list."""

    learn: str | None = None
    pairs = False
    needs: frozenset[str] = frozenset({"next-token"})
    supports: frozenset[str] = frozenset()
    meaning: Meaning | None = None
    per: Per = "weight"
    rate = 1.0
    places = ("replay",)
    teacher, temperature, top = "", 1.0, TOP

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    @property
    def beside(self) -> frozenset[str]:
        """The base's own distribution, where there is a leash to it."""
        return frozenset({"teacher"} if self.options.leash else ())

    def loss(self, forest: Forest) -> Tensor:
        """Summed weighted negative log-probability, in nats, and the leash."""
        if not self.options.leash:
            return forest.surprise()
        return forest.surprise() + self.options.leash * (forest.weights_N * divergence(forest)).sum()
