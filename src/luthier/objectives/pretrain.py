"""Plain text: every token is learned from all that precedes it in its document. Documents share a forest without seeing each other."""

from __future__ import annotations

from torch import Tensor

from luthier.core.spec import Strict
from luthier.objectives._learned import Learned, negative_log_likelihood


class Options(Strict):
    """Nothing to choose."""


class Objective:
    """Next-token loss on everything."""

    learn: str | None = "everything"
    pairs = False
    linear = True

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def loss(self, logprobs_N: Tensor, learned: Learned) -> Tensor:
        """Summed weighted negative log-probability, in nats."""
        return negative_log_likelihood(logprobs_N, learned)
