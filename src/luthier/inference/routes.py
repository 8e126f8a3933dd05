"""Routes: rows of one batch answered by different adapters, each as if it were alone.

    x_TI ---> W ------------------------------+--> y_TO      the base reads all rows at once
        \\-> [A one | A two | A three]_RI       |
             h_TR, zero outside a row's own    |
             \\-> [B one | B two | B three]_OR -+

The thin matrices of all adapters are stacked, whatever their ranks, so a linear costs two thin matmuls however many adapters there are;
what a row's adapter has no part in is multiplied by zero, which changes no sum.

T tokens, I inputs and O outputs of a linear, R ranks of all adapters together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from luthier.core.errors import ModelError
from luthier.methods._lowrank import LowRank
from luthier.models import slot

NAME = "routed"
"""What the delta that stands for several is called in its slots."""

LONG_RUN = 16
"""Tokens of a run, in the mean, from which on each is multiplied by its own adapter's matrices alone."""


class Routes:
    """Which adapter each token of a forward pass belongs to; the same object for all linears.

    Attributes:
        names: the adapters; a token's number in `of_T` counts them, and -1 is the base.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.of_T = torch.empty(0, dtype=torch.int64)
        self._weights: dict[tuple[tuple[int, int], ...], Tensor] = {}
        self._runs: list[tuple[int, int, int]] | None = None

    def number(self, name: str | None) -> int:
        """As `of_T` counts."""
        return -1 if name is None else self.names.index(name)

    def send(self, of_T: Tensor) -> None:
        """The tokens of the next forward passes, until others are named."""
        self.of_T = of_T
        self._weights.clear()
        self._runs = None

    @property
    def runs(self) -> list[tuple[int, int, int]] | None:
        """Number of the adapter, first and last token of each run of tokens that belong together; None where runs are short."""
        if self._runs is None:
            numbers, counts = (x.tolist() for x in torch.unique_consecutive(self.of_T, return_counts=True))
            ends = accumulate(counts)
            self._runs = [(number, end - count, end) for number, count, end in zip(numbers, counts, ends, strict=True)]
        return self._runs if len(self.of_T) >= LONG_RUN * len(self._runs) else None

    def weights(self, ranks: tuple[tuple[int, int], ...], scale_R: Tensor) -> Tensor:
        """``[T, R]``: the scale where a rank belongs to the token's adapter, zero elsewhere. Alike for all linears with equal `ranks`."""
        if ranks not in self._weights:
            owner_R = torch.tensor([number for number, rank in ranks for _ in range(rank)], device=self.of_T.device)
            self._weights[ranks] = (self.of_T[:, None] == owner_R) * scale_R
        return self._weights[ranks]


@dataclass(frozen=True)
class Stack:
    """The thin matrices of one linear, or of several that read the same input, put together.

    Attributes:
        ranks: number of the adapter, and rank, of each part of R. scale_R: by which it is multiplied.
    """

    A_RI: Tensor
    B_OR: Tensor
    scale_R: Tensor
    ranks: tuple[tuple[int, int], ...]
    routes: Routes

    @classmethod
    def of(cls, deltas: dict[int, LowRank], routes: Routes, dtype: torch.dtype) -> Stack:
        """Deltas of one linear by the number of their adapter in `routes`."""
        A_RI = torch.cat([delta.A.detach() for delta in deltas.values()]).to(dtype)
        B_OR = torch.cat([delta.B.detach() for delta in deltas.values()], dim=1).to(dtype)
        scale_R = torch.cat([torch.full((delta.rank,), delta.scale) for delta in deltas.values()]).to(A_RI)
        return cls(A_RI, B_OR, scale_R, tuple((number, delta.rank) for number, delta in deltas.items()), routes)

    @classmethod
    def beside(cls, parts: list[tuple[Stack, int, int]], outputs: int) -> Stack:
        """Stacks of linears whose outputs lie beside each other: each with its first and last column of `outputs`. One matmul then does."""
        first = parts[0][0]
        A_RI = torch.cat([stack.A_RI for stack, _, _ in parts])
        B_OR = A_RI.new_zeros(outputs, len(A_RI))
        at = 0
        for stack, start, end in parts:
            B_OR[start:end, at : at + len(stack.A_RI)] = stack.B_OR
            at += len(stack.A_RI)
        ranks = tuple(rank for stack, _, _ in parts for rank in stack.ranks)
        return cls(A_RI, B_OR, torch.cat([stack.scale_R for stack, _, _ in parts]), ranks, first.routes)

    def add_to(self, y_TO: Tensor, x_TI: Tensor) -> None:
        """What the adapters add, in place."""
        if (runs := self.routes.runs) is not None and len(self.ranks) > 1:
            self._add_by_runs(y_TO, x_TI, runs)
            return
        h_TR = (x_TI @ self.A_RI.T).mul_(self.routes.weights(self.ranks, self.scale_R))
        y_TO.addmm_(h_TR, self.B_OR.T)

    def _add_by_runs(self, y_TO: Tensor, x_TI: Tensor, runs: list[tuple[int, int, int]]) -> None:
        """Prompts: every run with its own adapter's matrices only, because here the arithmetic costs more than the calls."""
        end = 0
        for number, rank in self.ranks:
            start, end = end, end + rank
            for first, last in ((first, last) for mine, first, last in runs if mine == number):
                h_TR = (x_TI[first:last] @ self.A_RI[start:end].T).mul_(self.scale_R[start])
                y_TO[first:last].addmm_(h_TR, self.B_OR[:, start:end].T)


class Routed(nn.Module):
    """The low-rank deltas of one linear, stacked; as a delta it stands for all of them."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """``base(x)``, and to each token what its adapter adds."""
        y: Tensor = base(x).clone()  # a base may hand out a tensor it keeps
        self.stack.add_to(y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]))
        return y


@contextmanager
def routed(network: nn.Module, names: list[str], dtype: torch.dtype) -> Iterator[Routes]:
    """Let the adapters called `names` answer, each its own tokens, for a while; say which through `Routes.send`.

    Args:
        dtype: of the arithmetic.

    Raises:
        ModelError: no slot hosts one of them, or one is not a low-rank adapter.
    """
    routes, places = Routes(names), slot.slots(network)
    for name in names:
        if all(place.delta(name) is None for place in places.values()):
            raise ModelError(f"There is no adapter called {name!r} here.", remedy="Attach or load it first.", code="adapter")
    before = {place: place.active for place in places.values()}
    try:
        for place in places.values():
            found = {number: delta for number, name in enumerate(names) if (delta := place.delta(name)) is not None}
            place.active = None
            if found:
                place.host(NAME, Routed(Stack.of(_low_rank(found), routes, dtype)))
                place.active = NAME
        yield routes
    finally:
        for place, active in before.items():
            place.active = active
            place.dismiss(NAME)


def _low_rank(deltas: dict[int, nn.Module]) -> dict[int, LowRank]:
    for delta in deltas.values():
        if not isinstance(delta, LowRank):
            what = f"An adapter of kind {type(delta).__name__} cannot answer beside others in one batch."
            raise ModelError(what, remedy="Ask it in a batch of its own.", code="adapter")
    return {number: delta for number, delta in deltas.items() if isinstance(delta, LowRank)}
