"""Blocks compiled by torch.compile, one by one: a region of the network, not all of it.

All blocks run the same code, so what is made for one serves the others; lengths are symbols, so it serves every forest. Attention is
called, not traced: what a forest looks like is no business of the graph, and no guard. Two forms are made, as the first block's input
wants no gradient where the embedding stands still. Inductor keeps its work on disk, where another run finds it.

Who decides whether it pays is ``engine/compiling.py``. On a CPU fused blocks have kernels of their own (``fused.py``) and stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from transformers import AttentionInterface

from luthier.core import home
from luthier.models.kernels.compiled import compiler
from luthier.models.model import Model
from luthier.models.recompute import Again
from luthier.models.sight import NAME, attend

BACKEND = "inductor"
"""What makes kernels of a traced block."""


def can_compile() -> bool:
    """A C++ compiler is there: inductor, and triton's launchers, are made by it."""
    return bool(compiler())


def compile_blocks(model: Model, on: bool) -> None:
    """Let every block of `model` run compiled from its next call on, or as it was written. Numbers stay the same within rounding."""
    if on:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home.cache_folder() / "inductor"))
        AttentionInterface.register(NAME, torch.compiler.disable(attend))  # the import behind it costs a second: not for who never compiles
    for block in model.blocks():
        region = cast(nn.Module, block.__dict__.get("plain", block))  # a fused block computes by itself where it can
        again = region.forward if isinstance(region.forward, Again) else None
        forward = again.plain if again else region.forward
        plain = forward.plain if isinstance(forward, _Compiled) else forward
        chosen = _Compiled(plain) if on else plain
        if again:
            again.plain = chosen
        else:
            region.forward = chosen


class _Compiled:
    """A block's forward, compiled when it is first called."""

    def __init__(self, plain: Callable[..., Any]) -> None:
        self.plain, self.run = plain, torch.compile(plain, dynamic=True, backend=BACKEND)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)
