"""What makes a step fast or small, each with the plain part that stands in its place when it is switched off.

The product has no such switches: here the plain part is put where the fast one is (``off``), while a session is made and while it steps.
T tokens, V vocabulary, H query heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from luthier.engine import ahead, loss, tree
from luthier.engine import session as session_module
from luthier.engine.forest import Forest, states
from luthier.engine.session import Session
from luthier.engine.tree import Pack
from luthier.methods import _lowrank
from luthier.models import kernels, load, sight
from luthier.objectives import sft

Switch = Callable[[], Any]  # gives a context manager inside which the trick is off


@dataclass(frozen=True)
class Trick:
    """A trick by its one-line description, and how to do without it.

    Attributes:
        off: None where it is decided when the model or the process is made: see ``ablation.py``.
        rests_on: tricks without which this one is not there: it goes with them, and is switched on together with them.
    """

    what: str
    off: Switch | None = None
    rests_on: tuple[str, ...] = ()


def whole_head(self: Session, pack: Pack, *, keep_gradient: bool = True, surveyed: Tensor | None = None) -> Tensor:
    """`Session.loss` as it is usually computed: the scores of every token at once, then the loss of those that are learned."""
    logits_TV = F.linear(states(self.model, pack), self.model.head().weight)
    logprobs_TV = torch.log_softmax(logits_TV.float(), dim=-1)
    picked = logprobs_TV[torch.from_numpy(pack.rows_N), torch.from_numpy(pack.targets_N)]
    return -(torch.from_numpy(pack.weights_N) * picked).sum()


def recomputed(_: sft.Objective, forest: Forest) -> Tensor:
    """The loss in chunks whose softmax is computed again in backward."""

    def surprise(states_CD: Tensor, targets_C: Tensor, weights_C: Tensor) -> Tensor:
        logprobs_CV = F.linear(states_CD, forest.model.head().weight).float().log_softmax(-1)
        return -(weights_C * logprobs_CV.gather(1, targets_C[:, None]).squeeze(1)).sum()

    chunks = zip(forest.states_ND.split(loss.CHUNK), forest.targets_N.split(loss.CHUNK), forest.weights_N.split(loss.CHUNK), strict=True)
    return torch.stack([checkpoint(surprise, *chunk, use_reentrant=False) for chunk in chunks]).sum()


def masked(_: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, *__: Any, **given: Any) -> tuple[Tensor, None]:
    """The rule of sight as a dense ``[T, T]`` mask for torch's own attention."""
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=given["sight"].dense(), scale=given.get("scaling"), enable_gqa=True)
    return out.transpose(1, 2), None


@contextmanager
def dense() -> Iterator[None]:
    AttentionInterface.register(sight.NAME, masked)
    try:
        yield
    finally:
        AttentionInterface.register(sight.NAME, sight.attend)


class PlainAdam:
    """torch's AdamW over the tensors as they are, in the place of ``engine/optimiser.py``; parameters must be fp32."""

    def __init__(self, groups: list[Any], train: Any) -> None:
        self.rate, self.layerwise = train.learning_rate, False
        self.parameters = [p for g in groups for _, p in g.parameters]
        self.adam = torch.optim.AdamW(self.parameters, lr=self.rate, betas=(0.9, train.beta2), weight_decay=train.weight_decay)

    def expect(self, forests: int) -> None:
        """Gradients are added up where autograd leaves them."""

    def begin(self, share: float, *, clip: float, progress: float = 1.0) -> None:
        """Nothing is updated before the whole gradient is there."""

    def gradients(self) -> list[Tensor]:
        """What several processes would add up; there is one."""
        return []

    def norm(self) -> Tensor:
        return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(p.grad) for p in self.parameters if p.grad is not None]))

    def step(self, share: float, *, norm: Tensor, clip: float) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, clip)
        for group in self.adam.param_groups:
            group["lr"] = self.rate * share
        self.adam.step()
        self.adam.zero_grad()


def in_turn(self: ahead.Ahead, step: int, budget: int) -> ahead.Plan:
    """`Ahead.take` without a thread: the plan is made when it is asked for."""
    return self.make(step, budget)


def _instead(owner: Any, name: str, plain: Any) -> Switch:
    return lambda: patch.object(owner, name, plain)


TRICKS: dict[str, Trick] = {
    "shared beginnings": Trick(
        "rows that begin alike share the beginning",
        _instead(tree, "_worthwhile", lambda lengths, _: np.zeros(len(lengths), np.int64)),
        rests_on=("packs",),
    ),
    "packs": Trick("rows of a step are laid out together up to the engine's number of tokens, not one at a time"),
    "tree attention": Trick("attention costs what is seen, not T x T under a mask", dense),
    "learned rows": Trick("the head sees learned states only", _instead(Session, "loss", whole_head)),
    "head chunks": Trick("256 learned states at a time", _instead(loss, "CHUNK", 1 << 40), rests_on=("learned rows",)),
    "early gradient": Trick(
        "the head's gradient is taken in the forward pass", _instead(sft.Objective, "loss", recomputed), rests_on=("learned rows",)
    ),
    "fused lora": Trick("a linear and its adapter as one function, sums in place", _instead(_lowrank, "added", _lowrank.plainly_added)),
    "lean blocks": Trick("norms and MLPs keep less for backward", _instead(load, "make_lean", lambda _: 0)),
    "fused blocks": Trick(
        "a block is one step of autograd; q, k, v and gate, up are one matmul each, their adapters one more",
        _instead(load, "fuse", lambda _: 0),
        rests_on=("lean blocks", "fused lora", "tree attention"),
    ),
    "compiled kernels": Trick(
        "the work between the matmuls in one pass of C++ each",
        _instead(kernels, "_here", kernels._plain),
        rests_on=("tree attention",),
    ),
    "flat adam": Trick("AdamW on one flat buffer", _instead(session_module, "Optimiser", PlainAdam)),
    "planning ahead": Trick("a thread lays out the next step while one computes", _instead(ahead.Ahead, "take", in_turn)),
    "bfloat16": Trick("frozen weights and arithmetic in bfloat16"),
    "kept memory": Trick("the allocator keeps freed memory"),
}
"""By name, in the order of the table."""


def fallen(name: str) -> frozenset[str]:
    """What is off when `name` is: the trick and all that rests on it."""
    return frozenset({name}).union(*(fallen(other) for other, trick in TRICKS.items() if name in trick.rests_on))


def standing(name: str) -> frozenset[str]:
    """What must be on for `name` to be on."""
    return frozenset({name}).union(*(standing(other) for other in TRICKS[name].rests_on))


@contextmanager
def without(names: frozenset[str]) -> Iterator[None]:
    """Inside, the tricks called `names` are off."""
    with ExitStack() as stack:
        for name in sorted(names):
            off = TRICKS[name].off
            if off is not None:
                stack.enter_context(off())
        yield
