"""Packed weights: the frozen linears of the blocks in 4 or 8 bits, unpacked one at a time when they are multiplied.

    nf4     4 bits: 16 levels that suit normally distributed weights, one scale per 64 weights, the scales packed themselves
            (QLoRA, arXiv 2305.14314, section 3); by bitsandbytes, and this file is the only door to it
    int8    8 bits: levels of equal distance, one scale per output

What is computed is exactly what the unpacked weights would give: forward ``x W^T``, backward ``g W``, in the format of `x`. LoRA stands
beside a packed linear as beside any other (`LowRank.plain`). Embedding, head and norms stay as they are.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.core.errors import MissingPart

Packing = Literal["nf4", "int8"]

BLOCK = 64
"""Weights that share a scale in nf4. Rows that are no multiple of it came back wrong from bitsandbytes 0.50 on a CPU (off by 0.29 of their
length instead of 0.09), so such a linear stays as it is."""


class PackedLinear(nn.Module):
    """Stands for a frozen linear; `kind` says how it is packed.

    Args:
        linear: its weight is packed where it lies and may be dropped afterwards.
    """

    def __init__(self, linear: nn.Linear, kind: Packing) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.kind, self.dtype = kind, linear.weight.dtype
        self.bias = linear.bias
        self.scale: Any
        values, self.scale = _nf4(linear.weight.data) if kind == "nf4" else _int8(linear.weight.data)
        self.register_buffer("values", values, persistent=False)

    @property
    def weight(self) -> Tensor:
        """``[O, I]``, unpacked: a new tensor at every call, to be read and not to be changed."""
        values = cast(Tensor, self.values)
        if self.kind == "nf4":
            return cast(Tensor, _bitsandbytes().dequantize_4bit(values, self.scale)).to(self.dtype)
        return values.to(self.dtype).mul_(self.scale)

    def forward(self, x: Tensor) -> Tensor:
        """``x W^T + b``; the unpacked weight lives only for the product."""
        y = cast(Tensor, _Product.apply(x, self))  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Shown by print(network)."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.kind}"


class _Product(torch.autograd.Function):
    """Keeps neither `x` nor the unpacked weight: backward unpacks again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: PackedLinear) -> Tensor:
        ctx.packed = packed
        return F.linear(x, packed.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.packed.weight.to(grad.dtype), None


def pack(blocks: nn.Module, kind: Packing, *, device: torch.device) -> None:
    """Put a `PackedLinear` in the place of every linear of `blocks`, one after another, each on `device`.

    The weights as they come from disk are mapped, so that memory never holds more than the packed ones and one that is not yet.

    Raises:
        MissingPart: bitsandbytes is needed and not installed; nothing has been changed.
    """
    if kind == "nf4":
        _bitsandbytes()
    for path, linear in list(blocks.named_modules()):
        if isinstance(linear, nn.Linear) and linear.in_features % BLOCK == 0:
            _put(blocks, path, PackedLinear(linear.to(device), kind))


def unpack(network: nn.Module) -> None:
    """Plain linears again, holding what the packed ones computed with: what a merge adds to."""
    for path, module in list(network.named_modules()):
        if isinstance(module, PackedLinear):
            plain = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
            plain.weight = nn.Parameter(module.weight, requires_grad=False)
            plain.bias = module.bias
            _put(network, path, plain)


def packed_weights(network: nn.Module) -> int:
    """Weights that are packed: they are no parameters."""
    return sum(m.in_features * m.out_features for m in network.modules() if isinstance(m, PackedLinear))


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).register_module(name, module)


def _int8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    scale_O1 = (weight_OI.abs().amax(1, keepdim=True).float() / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return (weight_OI.float() / scale_O1).round_().to(torch.int8), scale_O1.to(weight_OI.dtype)


def _nf4(weight_OI: Tensor) -> tuple[Tensor, Any]:
    values, scale = _bitsandbytes().quantize_4bit(weight_OI.contiguous(), quant_type="nf4", compress_statistics=True)
    return cast(Tensor, values), scale


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes.functional as functional
    except ImportError as error:
        raise MissingPart(
            "model.dtype = nf4 needs bitsandbytes, which is not installed.",
            remedy="pip install 'luthier[packed]', or take model.dtype=int8, which needs nothing.",
        ) from error
    return functional
