"""What an objective sees of a forest, without the engine around it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Forest(Protocol):
    """N learned pairs (a state and the token it should predict) of P rows. Whatever is asked for is computed then."""

    surveyed: Tensor
    """What the objective's own `survey` found in all forests of the step, summed; without gradient."""

    @property
    def weights_N(self) -> Tensor:
        """How much each pair counts, float32."""

    def logprobs(self) -> Tensor:
        """Natural log-probability of every learned token, float32 ``[N]``, differentiable."""

    def surprise(self) -> Tensor:
        """``-sum(weights * logprobs)`` in nats, the cheapest way."""

    @property
    def rows(self) -> Tensor:
        """Numbers of the forest's P rows within the step, ascending."""

    @property
    def states_ND(self) -> Tensor:
        """States of the tokens that predict something, differentiable."""

    def choices(self, ids_NK: Tensor, *, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of given tokens at every pair's state, float32 ``[N, K]``, differentiable."""

    def outputs(self) -> Tensor:
        """What the head says of every pair's state, float32 ``[N, C]``, differentiable."""

    def beside(self, name: str) -> Tensor:
        """What else is known of the pairs, ``[N, ...]``."""

    def total(self, values_N: Tensor, part: str = "") -> Tensor:
        """Sum of `values_N` within each row, ``[P, ...]``; of its paths that are called `part`, where that says one."""
