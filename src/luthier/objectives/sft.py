"""Supervised fine-tuning: the next token of what the rows say is learned.

``loss = -sum_n w_n log p(target_n | path to row_n)``; the step's mean divides by ``sum_n w_n`` over all its rows, so it is the same
for 8 rows at once and 8 times one row.
"""

from __future__ import annotations

from torch import Tensor

from luthier.core.sequence import Per
from luthier.core.spec import Strict
from luthier.models.predictor import Meaning
from luthier.objectives._forest import Forest


class Options(Strict):
    """Nothing to choose: `data.learn` and per-message weights decide what is learned."""


class Objective:
    """Next-token loss on the learned list."""

    learn: str | None = None
    pairs = False
    needs: frozenset[str] = frozenset({"next-token"})
    meaning: Meaning | None = None
    beside: frozenset[str] = frozenset()
    per: Per = "weight"
    rate = 1.0

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def loss(self, forest: Forest) -> Tensor:
        """Summed weighted negative log-probability, in nats."""
        return forest.surprise()
