"""A network read without gradients: known blocks run bare, on weights laid out once for small batches.

Writing a token costs reading every weight, so what counts is how fast weights come from memory and how little happens between them.
transformers' layers spend as long in Python as in arithmetic here, and a plain matmul lays its weight out anew at each call: at 16 rows of
a 135 M model that was more than half of the time (docs/log.md). Blocks that are not known run as transformers has them.

T tokens (or rows, one token each), H query heads, K key-value heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Many
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any, cast

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.inference.routes import Routed, Stack
from luthier.methods._lowrank import LowRank
from luthier.models.fused import FusedBlock, known, window
from luthier.models.lead import behind, lead_of
from luthier.models.lean import RmsNorm
from luthier.models.model import Model
from luthier.models.sight import attend
from luthier.models.slot import Slot

ROWS = 16
"""The number of rows the matmul library lays weights out for; the layout serves any number."""


@contextmanager
def answering(model: Model) -> Iterator[None]:
    """No gradients and no dropout, for a while."""
    training = model.network.training
    model.network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.network.train(training)


class Reader:
    """Reads tokens with one model; build it again after weights changed.

    Args:
        pack: lay weights out for the matmul library. It costs their memory again, and the time of some steps; done where it helps and fits.
    """

    def __init__(self, model: Model, *, pack: bool = True) -> None:
        self.model, self.pack = model, pack
        base = cast(Any, model.network.base_model)
        pack = pack and _packs(model)
        self._head = Linears([model.head()], pack)
        self._blocks = [_Block(block, pack) for block in model.blocks()] if all(map(_known, model.blocks())) else []
        self._rotary, self._norm, self._embedding = getattr(base, "rotary_emb", None), getattr(base, "norm", None), model.embedding()
        if not isinstance(self._norm, RmsNorm) or type(self._embedding) is not nn.Embedding:
            self._blocks = []

    @property
    def packed(self) -> bool:
        """The weights lie in memory a second time, laid out."""
        return self._head.packed is not None

    @property
    def bare(self) -> bool:
        """The blocks are known and run without transformers."""
        return bool(self._blocks)

    def states(self, *, tokens_T: Tensor, positions_T: Tensor, sight: Any, media: Many[tuple[int, str]] = ()) -> Tensor:
        """As `Model.states`, for whoever needs no gradients."""
        if not self._blocks:
            return self.model.states(tokens_T=tokens_T, positions_T=positions_T, sight=sight, media=media)
        lead = lead_of(self.model)
        if lead is not None:
            positions_T, sight = behind(self.model, lead, positions_T, sight)
        x = F.embedding(tokens_T.to(torch.int64), self._embedding.weight)
        cos, sin = self._rotary(x[None], positions_T[None].to(torch.int64))  # type: ignore[misc]
        turn = _Turn(cos[0], sin[0])
        for block in self._blocks:
            x = block(x, turn, sight)
        return _normed(x, self._norm)  # type: ignore[arg-type]

    def logits(self, states_BD: Tensor) -> Tensor:
        """Token scores, float32."""
        return self.model.capped(self._head(states_BD)).float()


class Linears:
    """Linears that read the same input, as one matmul where their weights are laid out, each with what its slot's delta adds.

    Returns their outputs beside each other, ``[T, O]``.
    """

    def __init__(self, modules: list[nn.Module], pack: bool) -> None:
        self.modules = modules
        self.bases = [cast(nn.Linear, m.base if isinstance(m, Slot) else m) for m in modules]
        self.columns = list(pairwise([0, *accumulate(base.out_features for base in self.bases)]))
        self.packed = self.bias = None
        if pack and all(type(base) is nn.Linear for base in self.bases):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(torch.cat([base.weight.detach() for base in self.bases]), ROWS)
            if self.bases[0].bias is not None:
                self.bias = torch.cat([base.bias.detach() for base in self.bases])
        self._low_rank: dict[LowRank, tuple[Tensor, Tensor]] = {}
        self._mixed: tuple[list[nn.Module | None], Stack] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        deltas = [module.current if isinstance(module, Slot) else None for module in self.modules]
        if self.packed is None or not all(delta is None or isinstance(delta, LowRank | Routed) for delta in deltas):
            return torch.cat([module(x) for module in self.modules], dim=-1) if len(self.modules) > 1 else cast(Tensor, self.modules[0](x))
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        for delta, (start, end) in zip(deltas, self.columns, strict=True):
            if isinstance(delta, LowRank):
                a_RI, b_OR = self._cast(delta, x.dtype)
                y[:, start:end].addmm_(x @ a_RI.T, b_OR.T, alpha=delta.scale)
        routed = [(delta.stack, at) for delta, at in zip(deltas, self.columns, strict=True) if isinstance(delta, Routed)]
        if routed and routed[0][0].routes.runs is None:
            self._together(deltas).add_to(y, x)
        else:
            for stack, (start, end) in routed:
                stack.add_to(y[:, start:end], x)
        return y

    def _together(self, deltas: list[nn.Module | None]) -> Stack:
        """What is routed in these linears as one: they read the same input."""
        if self._mixed is None or self._mixed[0] != deltas:
            parts = [
                (delta.stack, start, end) for delta, (start, end) in zip(deltas, self.columns, strict=True) if isinstance(delta, Routed)
            ]
            self._mixed = deltas, Stack.beside(parts, self.columns[-1][1])
        return self._mixed[1]

    def _cast(self, delta: LowRank, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        if delta not in self._low_rank:
            self._low_rank[delta] = delta.A.detach().to(dtype), delta.B.detach().to(dtype)
        return self._low_rank[delta]


class _Turn:
    """Rotary embedding (Su et al., arXiv 2104.09864, eq. 34) of these positions, halves paired as transformers pairs them."""

    def __init__(self, cos_TD: Tensor, sin_TD: Tensor) -> None:
        self.half = cos_TD.shape[-1] // 2
        self.cos = cos_TD[:, None]
        self.sin = torch.cat([-sin_TD[:, : self.half], sin_TD[:, self.half :]], dim=-1)[:, None]

    def __call__(self, x_THD: Tensor) -> Tensor:
        return (x_THD * self.cos).add_(x_THD.roll(self.half, -1).mul_(self.sin))


class _Block:
    """One layer on ``[T, D]``."""

    def __init__(self, block: nn.Module, pack: bool) -> None:
        mine = cast(Any, block)
        self.attention, mlp = mine.self_attn, mine.mlp
        self.qkv = Linears([self.attention.q_proj, self.attention.k_proj, self.attention.v_proj], pack)
        self.o, self.gate_up, self.down = (
            Linears(m, pack) for m in ([self.attention.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj])
        )
        self.before, self.between = mine.input_layernorm, mine.post_attention_layernorm
        self.q_norm, self.k_norm = getattr(self.attention, "q_norm", None), getattr(self.attention, "k_norm", None)
        self.window, self.turns = window(self.attention), getattr(self.attention, "use_rope", True)
        self.width = int(self.attention.head_dim)
        self.queries, keys = (size // self.width for size in (self.qkv.columns[0][1], self.qkv.columns[1][1]))
        self.turned = keys  # heads that are turned by their position: q and k, not v

    def __call__(self, x: Tensor, turn: _Turn, sight: Any) -> Tensor:
        heads = self.qkv(_normed(x, self.before)).view(len(x), -1, self.width)
        qk, v = heads[:, : self.turned], heads[:, self.turned :]
        if self.q_norm is not None and self.k_norm is not None:
            qk = torch.cat([_normed(qk[:, : self.queries], self.q_norm), _normed(qk[:, self.queries :], self.k_norm)], dim=1)
        if self.turns:
            qk = turn(qk)
        q, k, v = (part.transpose(0, 1)[None] for part in (qk[:, : self.queries], qk[:, self.queries :], v))
        out, _ = attend(self.attention, q, k, v, None, self.attention.scaling, sliding_window=self.window, sight=sight)
        x = x + self.o(out[0].flatten(1))
        gate, up = self.gate_up(_normed(x, self.between)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate).mul_(up))


def _normed(x: Tensor, norm: RmsNorm) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.epsilon)


def _known(block: nn.Module) -> bool:
    return isinstance(block, FusedBlock) and known(block)


def _packs(model: Model) -> bool:
    """Whether laying out helps and fits: the CPU's matmul library knows the number format, and half of the free memory holds the copy."""
    linears = [*model.linears().values(), model.head()]
    size = sum(linear.weight.nbytes for linear in linears if type(linear) is nn.Linear)  # packed bases stay as they are
    known = model.device.type == "cpu" and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return known and size < psutil.virtual_memory().available / 2
