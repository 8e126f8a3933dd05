"""The linears of a block, whatever the network: they are found by what they are."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from transformers.pytorch_utils import Conv1D

from luthier.models.quantize import PackedLinear
from luthier.models.slot import Slot


def linears(block: nn.Module) -> dict[str, nn.Module]:
    """Every linear of one block by its name inside the block, e.g. ``self_attn.q_proj``; a slot is answered with its base.

    GPT-2's are ``Conv1D``: a linear whose weight lies transposed, ``[in, out]``.
    """
    return dict(_linears(block, ""))


def _linears(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        here = f"{path}.{name}" if path else name
        plain = child.base if isinstance(child, Slot) else child
        if isinstance(plain, nn.Linear | Conv1D | PackedLinear):
            yield here, plain
        else:
            yield from _linears(plain, here)
