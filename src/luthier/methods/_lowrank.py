"""The low-rank delta of LoRA: the formula to read, and the same arithmetic fused.

R rank, T tokens, I inputs and O outputs of the linear.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from luthier.models.joined import Factors


class LowRank(nn.Module):
    """A delta for a linear (LoRA, Hu et al., arXiv 2106.09685, section 4.1)::

               x_TI
              /    \\
        W [O, I]   A [R, I]   uniform in +-1/sqrt(I), as nn.Linear begins (kaiming uniform, a = sqrt 5)
             |       |
             |     B [O, R]   zeros: at step 0 the sum is W x
              \\    /
            y = W x + s B A x            s = alpha / R, or alpha / sqrt(R) with rsLoRA (Kalajdzievski, arXiv 2312.03732, eq. 6)

    `A` and `B` are fp32 parameters; the arithmetic runs in the dtype of `x`.

    Args:
        base: the linear it will stand at; only its shape is read.
        dropout: share of the inputs of `A` that are dropped while training.
    """

    def __init__(self, base: nn.Module, *, rank: int, alpha: float, dropout: float = 0.0, rslora: bool = False) -> None:
        super().__init__()
        outputs, inputs = _shape(base)
        device = cast(Tensor, base.weight).device
        self.rank, self.alpha, self.dropout = rank, alpha, dropout
        self.scale = alpha / (math.sqrt(rank) if rslora else rank)
        self.A = nn.Parameter(torch.zeros(rank, inputs, device=device))
        self.B = nn.Parameter(torch.zeros(outputs, rank, device=device))

    @torch.no_grad()
    def begin(self, *, seed: int, path: str) -> None:
        """Draw `A` from `seed` and the module's path: the order in which modules are visited does not matter."""
        digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        bound = 1 / math.sqrt(self.A.shape[1])
        self.A.copy_((torch.rand(self.A.shape, generator=generator) * 2 - 1) * bound)
        self.B.zero_()

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """``base(x) + scale * x A^T B^T``, fused where `base` is a plain frozen linear."""
        if self._fuses(x, base):
            return cast(Tensor, LoraLinear.apply(x, base.weight, base.bias, self.A, self.B, self.scale))  # type: ignore[no-untyped-call]
        return self.plain(x, base)

    def plain(self, x: Tensor, base: nn.Module) -> Tensor:
        """The formula as it stands; works on any base, packed ones included."""
        h = F.linear(F.dropout(x, self.dropout, self.training), self.A.to(x.dtype))
        return cast(Tensor, base(x) + self.scale * F.linear(h, self.B.to(x.dtype)))

    def factors(self) -> Factors | None:
        """What a fused block runs beside the linear's own matmul; None while dropout makes it another formula."""
        return None if self.training and self.dropout > 0 else Factors(self.A, self.B, self.scale)

    def merged(self, base: nn.Module) -> Tensor:
        """``W + s B A``, added in fp32 and rounded once to the dtype of `W`."""
        weight = cast(Tensor, base.weight)
        change_OI = self.scale * (self.B @ self.A)
        change = change_OI.T if isinstance(base, Conv1D) else change_OI
        return (weight.float() + change).to(weight.dtype)

    def _fuses(self, x: Tensor, base: nn.Module) -> bool:
        quiet = not (self.training and self.dropout > 0)
        return quiet and type(base) is nn.Linear and x.dtype == base.weight.dtype and not base.weight.requires_grad

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        return f"rank={self.rank}, alpha={self.alpha}, dropout={self.dropout}"


class LoraLinear(torch.autograd.Function):
    """`LowRank.plain` without dropout, its sums accumulated in place.

    Autograd on the plain form makes the low-rank part's ``[T, O]`` product, scales and adds it as three tensors of that size. Here
    ``x`` and ``h = x A^T`` ``[T, R]`` are kept, sums are accumulated by ``addmm`` in place, and no gradient of ``W`` exists:

        y = x W^T + b + s h B^T       dB = s g^T h     dh = s g B     dA = dh^T x     dx = g W + dh A
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scale: float) -> Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        a_RI, b_OR = A.to(x.dtype), B.to(x.dtype)
        y_TO = F.linear(x_TI, weight, bias)
        h_TR = x_TI @ a_RI.T
        y_TO.addmm_(h_TR, b_OR.T, alpha=scale)
        ctx.save_for_backward(x_TI, h_TR, weight, a_RI, b_OR)
        ctx.scale, ctx.shape = scale, x.shape
        return y_TO.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, h_TR, weight, a_RI, b_OR = ctx.saved_tensors
        grad_TO = grad.reshape(-1, grad.shape[-1])
        dh_TR = (grad_TO @ b_OR).mul_(ctx.scale)
        da = (dh_TR.T @ x_TI).float() if ctx.needs_input_grad[3] else None
        db = (grad_TO.T @ h_TR).float().mul_(ctx.scale) if ctx.needs_input_grad[4] else None
        dx = None
        if ctx.needs_input_grad[0]:
            dx = (grad_TO @ weight).addmm_(dh_TR, a_RI).view(ctx.shape)
        return dx, None, None, da, db, None


def _shape(base: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear; GPT-2's Conv1D keeps its weight transposed."""
    first, second = cast(Tensor, base.weight).shape
    return (second, first) if isinstance(base, Conv1D) else (first, second)
