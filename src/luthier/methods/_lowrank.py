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

    Attributes:
        strength: multiplies `scale`; 1 is as trained, 0 is the base.
    """

    def __init__(self, base: nn.Module, *, rank: int, alpha: float, dropout: float = 0.0, rslora: bool = False) -> None:
        super().__init__()
        outputs, inputs = shape(base)
        device = cast(Tensor, base.weight).device
        self.rank, self.alpha, self.dropout, self.strength = rank, alpha, dropout, 1.0
        self.full_scale = alpha / (math.sqrt(rank) if rslora else rank)
        self.A = nn.Parameter(torch.zeros(rank, inputs, device=device))
        self.B = nn.Parameter(torch.zeros(outputs, rank, device=device))

    @property
    def scale(self) -> float:
        """What ``B A x`` is multiplied by now."""
        return self.full_scale * self.strength

    @torch.no_grad()
    def begin(self, *, seed: int, path: str) -> None:
        """Draw `A` from `seed` and the module's path: the order in which modules are visited does not matter."""
        bound = 1 / math.sqrt(self.A.shape[1])
        self.A.copy_((torch.rand(self.A.shape, generator=dice(seed, path)) * 2 - 1) * bound)
        self.B.zero_()

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """``base(x) + scale * x A^T B^T``, fused where `base` is a plain frozen linear."""
        return added(x, base, self.A, self.B, self.scale, dropout=self.dropout if self.training else 0.0)

    def plain(self, x: Tensor, base: nn.Module) -> Tensor:
        """The formula as it stands; works on any base, packed ones included."""
        return plainly_added(x, base, self.A, self.B, self.scale, dropout=self.dropout if self.training else 0.0)

    def factors(self) -> Factors | None:
        """What a fused block runs beside the linear's own matmul; None while dropout makes it another formula."""
        return None if self.training and self.dropout > 0 else Factors(self.A, self.B, self.scale)

    def parts(self) -> dict[str, nn.Parameter]:
        """What learns, by PEFT's names."""
        return {"lora_A.weight": self.A, "lora_B.weight": self.B}

    def saved(self) -> tuple[dict[str, Tensor], float]:
        """What is written to disk, by PEFT's names, and its alpha."""
        return dict(self.parts()), self.alpha

    @staticmethod
    def blended(parts: list[tuple[LowRank, float]], how: str) -> LowRank:
        """Several as one (``_blend.py``), of scale 1."""
        scales = [weight * delta.scale for delta, weight in parts]
        deltas = [delta for delta, _ in parts]
        if how == "concatenation":
            A = torch.cat([delta.A for delta in deltas])
            B = torch.cat([scale * delta.B for scale, delta in zip(scales, deltas, strict=True)], dim=1)
        else:
            if len({delta.rank for delta in deltas}) > 1:
                raise ValueError(f"ranks {', '.join(str(delta.rank) for delta in deltas)} cannot be added.")
            # the root on either side: a product of sums whose own terms are the weighted products
            A = torch.stack([abs(scale) ** 0.5 * delta.A for scale, delta in zip(scales, deltas, strict=True)]).sum(0)
            signed = [math.copysign(abs(scale) ** 0.5, scale) for scale in scales]
            B = torch.stack([scale * delta.B for scale, delta in zip(signed, deltas, strict=True)]).sum(0)
        whole = LowRank(nn.Linear(A.shape[1], len(B), bias=False, device=A.device), rank=len(A), alpha=len(A))
        whole.A.copy_(A)
        whole.B.copy_(B)
        return whole

    def merged(self, base: nn.Module) -> Tensor:
        """``W + s B A``, added in fp32 and rounded once to the dtype of `W`."""
        weight = cast(Tensor, base.weight)
        return (weight.float() + laid(self.scale * (self.B @ self.A), base)).to(weight.dtype)

    def merge_into(self, base: nn.Module) -> None:
        """Let `base` compute the same by itself."""
        cast(Tensor, base.weight).data = self.merged(base)

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        return f"rank={self.rank}, alpha={self.alpha}, dropout={self.dropout}"


def added(x: Tensor, base: nn.Module, A: Tensor, B: Tensor, scale: float, *, dropout: float = 0.0) -> Tensor:
    """``base(x) + scale * x A^T B^T``, fused where `base` is a plain frozen linear and nothing is dropped."""
    fuses = not dropout and type(base) is nn.Linear and x.dtype == base.weight.dtype and not base.weight.requires_grad
    if fuses:
        return cast(Tensor, LoraLinear.apply(x, base.weight, base.bias, A, B, scale))  # type: ignore[no-untyped-call]
    return plainly_added(x, base, A, B, scale, dropout=dropout)


def plainly_added(x: Tensor, base: nn.Module, A: Tensor, B: Tensor, scale: float, *, dropout: float = 0.0) -> Tensor:
    """The same on any base, a share `dropout` of the inputs of `A` dropped."""
    h = F.linear(F.dropout(x, dropout), A.to(x.dtype))
    return cast(Tensor, base(x) + scale * F.linear(h, B.to(x.dtype)))


def dice(seed: int, path: str) -> torch.Generator:
    """Random numbers that follow from a seed and a module's path."""
    digest = hashlib.sha256(f"{seed}:{path}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def laid(weight_OI: Tensor, base: nn.Module) -> Tensor:
    """A matrix ``[O, I]`` the way `base` keeps its own: GPT-2's Conv1D transposes."""
    return weight_OI.T if isinstance(base, Conv1D) else weight_OI


def shape(base: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear."""
    outputs, inputs = laid(cast(Tensor, base.weight), base).shape
    return outputs, inputs


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
