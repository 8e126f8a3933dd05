"""Activation checkpointing: a block keeps its input only, and computes the rest again in backward (Chen and others, arXiv 1604.06174).

Costs one more forward of the blocks, about a third of a step; saves all activations but one state per block and token. That state may lie
in main memory meanwhile (`luthier.models.offload`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from luthier.models.model import Model
from luthier.models.offload import Away, Offload


def recompute(model: Model, on: bool, *, offload: bool = False) -> None:
    """Let every block of `model` compute itself again in backward, or not. Answers and gradients stay the same.

    Args:
        offload: keep the blocks' states in main memory.
    """
    way = Offload(model.device) if on and offload else None
    for block in model.blocks():
        plain = block.forward.plain if isinstance(block.forward, Again) else block.forward
        block.forward = Again(plain, way) if on else plain


class Again:
    """A block's forward, run again in backward where a gradient is wanted. The sight goes along as it is: it is planned once."""

    def __init__(self, plain: Callable[..., Any], way: Offload | None = None) -> None:
        self.plain, self.way = plain, way

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.plain(*args, **kwargs)
        if self.way is None:
            return checkpoint(self.plain, *args, use_reentrant=False, **kwargs)
        with _moved(self.way, args[0]):
            return checkpoint(self.plain, *args, use_reentrant=False, **kwargs)


def _moved(way: Offload, state: Tensor) -> saved_tensors_hooks:
    """Whatever is the state goes to main memory; what all blocks share (a mask, an encoder's states) is kept once, where it is."""

    def pack(kept: Tensor) -> Tensor | Away:
        same = kept.data_ptr() == state.data_ptr() and kept.shape == state.shape
        return way.out(kept) if same else kept

    def unpack(kept: Tensor | Away) -> Tensor:
        return way.back(kept) if isinstance(kept, Away) else kept

    return saved_tensors_hooks(pack, unpack)
