"""Plain text: every token is learned from all that precedes it in its document. Documents share a forest without seeing each other."""

from __future__ import annotations

from torch import Tensor

from luthier.core.sequence import Per
from luthier.core.spec import Strict
from luthier.models.predictor import Meaning
from luthier.objectives._forest import Forest


class Options(Strict):
    """Nothing to choose."""


class Objective:
    """Next-token loss on everything."""

    learn: str | None = "everything"
    pairs = False
    needs: frozenset[str] = frozenset({"next-token"})
    meaning: Meaning | None = None
    supports: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    per: Per = "weight"
    rate = 1.0

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def loss(self, forest: Forest) -> Tensor:
        """Summed weighted negative log-probability, in nats."""
        return forest.surprise()
