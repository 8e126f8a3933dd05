"""Linears that read the same input (q, k, v; gate, up), run as one matmul, and their low-rank deltas as one more.

    x_TI -- W [O, I]                    the members' weights one below the other: views of one piece of memory
      \\---- A [R, I] -- B [O, R] --+   the members' A one below the other; their B, scaled, on the diagonal of a block matrix

T tokens, I inputs, O outputs of all members, R the sum of their ranks.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from luthier.models.slot import Slot


class Factors(NamedTuple):
    """A delta that is ``scale * x A^T B^T`` now: A ``[R, I]`` and B ``[O, R]``, fp32 parameters."""

    A: nn.Parameter
    B: nn.Parameter
    scale: float


def lay_together(linears: Many[nn.Linear]) -> None:
    """Give the members' weights (and biases) one piece of memory, so that they can be multiplied as one."""
    for name in ("weight", "bias"):
        parameters = [getattr(linear, name) for linear in linears]
        if all(parameter is not None for parameter in parameters) and not _adjacent(parameters):
            whole = torch.cat([parameter.data for parameter in parameters])
            for parameter, part in zip(parameters, whole.split([len(p) for p in parameters]), strict=True):
                parameter.data = part


class Joined:
    """The members of one group, as they stand at this call.

    Args:
        places: the modules in the network, each a plain linear or a slot around one.
    """

    def __init__(self, places: Many[nn.Module]) -> None:
        self.linears = [cast(nn.Linear, place.base if isinstance(place, Slot) else place) for place in places]
        self.deltas = [_factors(place) for place in places]
        self.sizes = [linear.out_features for linear in self.linears]
        self.weight_OI = _whole([linear.weight for linear in self.linears])
        biases = [linear.bias for linear in self.linears if linear.bias is not None]
        self.bias_O = _whole(biases) if biases else None
        self.A_RI: Tensor | None = None
        self.B_OR: Tensor | None = None
        if any(self.deltas):
            self.A_RI, self.B_OR = self._stack()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that may move: weights, biases, then each delta's A and B."""
        found: list[Tensor | None] = [linear.weight for linear in self.linears]
        found += [linear.bias for linear in self.linears]
        for delta in filter(None, self.deltas):
            found += [delta.A, delta.B]
        return [cast(nn.Parameter, parameter) for parameter in found if parameter is not None]

    def forward(self, x_TI: Tensor, *, out_TO: Tensor | None = None, add_TO: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The members' outputs side by side, into `out_TO` where given, `add_TO` added; and ``h = x A^T``, which `backward` wants.

        `add_TO`, the large stream of states, comes last: rounded to bf16 with it, a young delta would be less than half a step and lost.
        """
        weight = self.weight_OI.t()
        y = torch.mm(x_TI, weight, out=out_TO) if self.bias_O is None else torch.addmm(self.bias_O, x_TI, weight, out=out_TO)
        h_TR = None
        if self.A_RI is not None and self.B_OR is not None:
            h_TR = x_TI @ self.A_RI.t()
            y.addmm_(h_TR, self.B_OR.t())
        return (y if add_TO is None else y.add_(add_TO)), h_TR

    @property
    def moves(self) -> bool:
        """Some of the parameters learn."""
        return any(parameter.requires_grad for parameter in self.parameters)

    def input_gradient(self, g_TO: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradient of x, and that of ``h``, which `parameter_gradients` wants."""
        dx_TI = g_TO @ self.weight_OI
        dh_TR = self.inner_gradient(g_TO)
        if dh_TR is not None and self.A_RI is not None:
            dx_TI.addmm_(dh_TR, self.A_RI)
        return dx_TI, dh_TR

    def inner_gradient(self, g_TO: Tensor) -> Tensor | None:
        """The gradient of ``h`` alone."""
        return None if self.B_OR is None else g_TO @ self.B_OR

    def parameter_gradients(self, g_TO: Tensor, x_TI: Tensor, h_TR: Tensor | None, dh_TR: Tensor | None, grads: dict[int, Tensor]) -> None:
        """The gradients of what moves, put into `grads` by identity."""
        self._weights_back(g_TO, x_TI, grads)
        if h_TR is not None and dh_TR is not None:
            self._deltas_back(g_TO, x_TI, h_TR, dh_TR, grads)

    def _weights_back(self, g_TO: Tensor, x_TI: Tensor, grads: dict[int, Tensor]) -> None:
        weights, biases = [linear.weight for linear in self.linears], [linear.bias for linear in self.linears]
        if any(weight.requires_grad for weight in weights):
            _share(weights, (g_TO.t() @ x_TI).split(self.sizes), grads)
        if any(bias is not None and bias.requires_grad for bias in biases):
            _share(biases, g_TO.sum(0).split(self.sizes), grads)

    def _deltas_back(self, g_TO: Tensor, x_TI: Tensor, h_TR: Tensor, dh_TR: Tensor, grads: dict[int, Tensor]) -> None:
        dA, dB_RO = (dh_TR.t() @ x_TI).float(), (h_TR.t() @ g_TO).float()  # g, the wider one, is read as it lies: a third less time
        row = column = 0
        for delta, size in zip(self.deltas, self.sizes, strict=True):
            if delta is not None:
                rank = len(delta.A)
                grads[id(delta.A)] = dA[column : column + rank]
                grads[id(delta.B)] = dB_RO[column : column + rank, row : row + size].mul_(delta.scale).t()
                column += rank
            row += size

    def _stack(self) -> tuple[Tensor, Tensor]:
        dtype = self.weight_OI.dtype
        found = [delta for delta in self.deltas if delta is not None]
        A_RI = torch.cat([delta.A.detach().to(dtype) for delta in found])
        B_OR = A_RI.new_zeros(sum(self.sizes), len(A_RI))
        row = column = 0
        for delta, size in zip(self.deltas, self.sizes, strict=True):
            if delta is not None:
                rank = len(delta.A)
                B_OR[row : row + size, column : column + rank] = delta.B.detach() * delta.scale
                column += rank
            row += size
        return A_RI, B_OR


def joinable(place: nn.Module, x: Tensor) -> bool:
    """Whether a module of the network can be run this way now: a plain linear of x's number format with no delta, or a low-rank one."""
    base: Any = place.base if isinstance(place, Slot) else place
    if type(base) is not nn.Linear or base.weight.dtype != x.dtype:
        return False
    return not isinstance(place, Slot) or place.current is None or _factors(place) is not None


def _factors(place: nn.Module) -> Factors | None:
    delta: Any = place.current if isinstance(place, Slot) else None
    ask = getattr(delta, "factors", None)
    return None if ask is None else cast("Factors | None", ask())


def _share(parameters: Many[Tensor | None], parts: Many[Tensor], grads: dict[int, Tensor]) -> None:
    grads.update({id(p): part for p, part in zip(parameters, parts, strict=True) if p is not None and p.requires_grad})


def _adjacent(parts: Many[Tensor]) -> bool:
    """Each begins in memory where the one before ends."""
    same = all(part.untyped_storage().data_ptr() == parts[0].untyped_storage().data_ptr() and part.is_contiguous() for part in parts)
    ends = [part.data_ptr() + part.nbytes for part in parts[:-1]]
    return same and ends == [part.data_ptr() for part in parts[1:]]


def _whole(parts: Many[Tensor]) -> Tensor:
    """The parts one below the other, as a view where they are adjacent."""
    first = parts[0].detach()
    if len(parts) == 1:
        return first
    if not _adjacent(parts):
        return torch.cat([part.detach() for part in parts])
    return first.as_strided((sum(len(part) for part in parts), *first.shape[1:]), first.stride())
