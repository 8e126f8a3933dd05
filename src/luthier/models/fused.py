"""A whole decoder block as one step of autograd: what is kept, what is computed again and where it lies are decided here.

        x ----------------------------+            kept for backward, per token of a 135 M model in bf16: 11.5 kB
        | norm 1                      |            x, q, k, v, out, mid, gate, up, and a few numbers a token
        | q, k, v    one matmul       |
        | turn (rotary)               |
        | attention over the tree     |            computed again: the norms' outputs, silu(gate) * up, the probabilities
        | o ------------------------> + mid
        | norm 2                      |
        | gate, up   one matmul       |
        | silu(gate) * up             |
        | down ---------------------> + y

The modules keep their names and places, so slots, methods and files find them. Where a block is not as it must be (another class, a delta
that is not low-rank, an accelerator, a sliding window that bites), transformers' own forward runs; both give the same numbers within
rounding (``tests/models/test_fused.py``).

T tokens, D width of a state, F width of the MLP, H query heads, K key-value heads, W width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from luthier.models import pieces
from luthier.models.head_norms import HeadNorms
from luthier.models.joined import Joined, joinable, lay_together
from luthier.models.kernels import kernels
from luthier.models.lean import GatedMlp, RmsNorm
from luthier.models.sight import Sight

LAYERS = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer", "SmolLM3DecoderLayer"})
"""transformers' classes that compute the picture above. Qwen3 also norms the heads of q and k; SmolLM3 leaves some layers unturned."""

ROUND = 128
"""Tokens a block's kept memory is rounded up to: packs of nearly equal size then take over each other's memory exactly."""


def fuse(network: nn.Module) -> int:
    """Put a `FusedBlock` in the place of every layer that is known; returns how many."""
    base = network.base_model
    layers = getattr(getattr(base, "language_model", base), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return 0
    count = 0
    for i, layer in enumerate(layers):
        if type(layer).__name__ in LAYERS and known(layer):
            layers[i] = FusedBlock(layer)
            count += 1
    return count


def known(layer: Any) -> bool:
    """Whether the parts of one of `LAYERS`, or of a `FusedBlock`, are those of the picture: no slot around a norm or the MLP."""
    norms = [layer.input_layernorm, *(getattr(layer.self_attn, name, layer.input_layernorm) for name in ("q_norm", "k_norm"))]
    return all(isinstance(norm, RmsNorm) for norm in norms) and isinstance(layer.mlp, GatedMlp)


def window(attention: Any) -> int | None:
    """How far back one of these layers sees; None is all the way. Mistral asks its config, the others keep it per layer or have none."""
    return cast("int | None", getattr(attention, "sliding_window", getattr(attention.config, "sliding_window", None)))


class FusedBlock(nn.Module):
    """Stands for one of `LAYERS`, with the very same submodules."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.self_attn, self.mlp = layer.self_attn, layer.mlp
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm
        self.__dict__["plain"] = layer  # not a submodule: it would give every weight a second name
        layer._modules = self._modules  # one dict for both: a slot put around a part is seen by either
        self.train(layer.training)
        attention, mlp = layer.self_attn, layer.mlp
        lay_together([attention.q_proj, attention.k_proj, attention.v_proj])
        lay_together([mlp.gate_proj, mlp.up_proj])

    def forward(self, hidden_states: Tensor, *, position_embeddings: tuple[Tensor, Tensor], sight: Any = None, **rest: Any) -> Tensor:
        """States ``[1, T, D]`` after the block."""
        x_TD = hidden_states[0]
        if not self._fits(x_TD, sight):
            given = {"position_embeddings": position_embeddings, "sight": sight, **rest}
            return cast(Tensor, self.__dict__["plain"](hidden_states, **given))
        cos, sin = position_embeddings
        call = _Call(self, sight, cos[0].contiguous(), sin[0].contiguous())
        return cast(Tensor, _Block.apply(x_TD, call, *call.trained)).unsqueeze(0)  # type: ignore[no-untyped-call]

    def _fits(self, x_TD: Tensor, sight: Any) -> bool:
        if not isinstance(sight, Sight) or x_TD.device.type != "cpu":
            return False
        if not known(self):
            return False  # a slot stands around one of the parts
        seen = window(self.self_attn)
        if seen is not None and sight.depth > seen:
            return False
        return all(joinable(place, x_TD) for place in self.linears)

    @property
    def linears(self) -> list[nn.Module]:
        """The seven linears, or the slots around them, in the order of the picture."""
        attention, mlp = self.self_attn, self.mlp
        return [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


@dataclass
class _Call:
    """A block as it stands at one call, and its pack."""

    block: FusedBlock
    sight: Sight
    cos_TW: Tensor
    sin_TW: Tensor
    trained: list[nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        q, k, v, o, gate, up, down = self.block.linears
        self.qkv, self.o, self.gate_up, self.down = Joined([q, k, v]), Joined([o]), Joined([gate, up]), Joined([down])
        self.norm1, self.norm2 = self.block.input_layernorm, self.block.post_attention_layernorm
        attention = self.block.self_attn
        self.head_norms = HeadNorms(attention, self.qkv.sizes) if hasattr(attention, "q_norm") else None
        if not getattr(attention, "use_rope", True):
            self.cos_TW, self.sin_TW = torch.ones_like(self.cos_TW), torch.zeros_like(self.sin_TW)
        found = [p for group in (self.qkv, self.o, self.gate_up, self.down) for p in group.parameters]
        found += [self.norm1.weight, self.norm2.weight, *(self.head_norms.parameters if self.head_norms else [])]
        self.trained = [p for p in found if p.requires_grad]
        self.width = self.cos_TW.shape[1]
        self.heads, self.kv_heads = self.qkv.sizes[0] // self.width, self.qkv.sizes[1] // self.width
        self.scaling = float(self.block.self_attn.scaling)


@dataclass
class _Kept:
    """What one call keeps for its backward, in one piece of memory."""

    q: Tensor
    k_KTW: Tensor
    v_KTW: Tensor
    out_TD: Tensor
    mid_TD: Tensor
    gate_up_T2F: Tensor
    logsum: Tensor
    scale1_T: Tensor
    scale2_T: Tensor

    @classmethod
    def reserve(cls, x_TD: Tensor, call: _Call) -> _Kept:
        tokens, heads, kv, width = len(x_TD), call.heads, call.kv_heads, call.width
        wide = [(tokens, heads, width), (kv, tokens, width), (kv, tokens, width), (tokens, heads * width), tuple(x_TD.shape)]
        wide.append((tokens, sum(call.gate_up.sizes)))
        narrow: list[tuple[int, ...]] = [(tokens * heads,), (tokens,), (tokens,)]
        return cls(*_carve(wide, x_TD.dtype, tokens), *_carve(narrow, torch.float32, tokens))


def _carve(shapes: list[tuple[int, ...]], dtype: torch.dtype, tokens: int) -> list[Tensor]:
    """Tensors of these shapes, one behind the other in one piece of memory, whose size is that of the next multiple of `ROUND` tokens."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    rounded = -(-tokens // ROUND) * ROUND
    whole = torch.empty(sum(size // tokens * rounded for size in sizes), dtype=dtype)
    return [part.view(shape) for part, shape in zip(whole[: sum(sizes)].split(sizes), shapes, strict=True)]


def _attend(x_TD: Tensor, call: _Call, kept: _Kept) -> list[Tensor | None]:
    """The first half, up to ``mid``; returns the deltas' inner states."""
    run = kernels(x_TD)
    qkv, h_qkv = call.qkv.forward(run.rms_norm(x_TD, call.norm1.weight, call.norm1.epsilon, kept.scale1_T))
    raw = call.head_norms.forward(qkv) if call.head_norms else []
    run.split_heads(qkv, call.cos_TW, call.sin_TW, call.sight.cut, kept.q, kept.k_KTW, kept.v_KTW, call.scaling)
    out = pieces.forward(kept.q, kept.k_KTW, kept.v_KTW, call.sight, kept.logsum)
    run.from_pieces(out, call.sight.cut, kept.out_TD)
    _, h_o = call.o.forward(kept.out_TD, out_TO=kept.mid_TD, add_TO=x_TD)
    return [h_qkv, h_o, *raw]


def _think(call: _Call, kept: _Kept) -> tuple[Tensor, list[Tensor | None]]:
    """The second half, from ``mid`` to the block's output."""
    run = kernels(kept.mid_TD)
    n_TD = run.rms_norm(kept.mid_TD, call.norm2.weight, call.norm2.epsilon, kept.scale2_T)
    _, h_gate_up = call.gate_up.forward(n_TD, out_TO=kept.gate_up_T2F)
    y_TD, h_down = call.down.forward(run.swiglu(kept.gate_up_T2F), add_TO=kept.mid_TD)
    return y_TD, [h_gate_up, h_down]


class _Block(torch.autograd.Function):
    """The picture, and its gradient."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, call: _Call, *trained: Tensor) -> Tensor:
        kept = _Kept.reserve(x_TD, call)
        inner = _attend(x_TD, call, kept)
        y_TD, more = _think(call, kept)
        ctx.call = call
        ctx.save_for_backward(x_TD, *vars(kept).values(), *more, *inner)
        return y_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_TD: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        x_TD, *saved = ctx.saved_tensors
        count = len(fields(_Kept))
        kept, (h_gate_up, h_down, h_qkv, h_o, *raw) = _Kept(*saved[:count]), saved[count:]
        grads: dict[int, Tensor] = {}
        g_TD = g_TD.contiguous()
        dmid_TD = _think_back(g_TD, call, kept, h_gate_up, h_down, grads)
        dx_TD = _attend_back(dmid_TD, x_TD, call, kept, h_qkv, h_o, raw, grads)
        return dx_TD, None, *(grads[id(p)] for p in call.trained)


def _think_back(
    g_TD: Tensor, call: _Call, kept: _Kept, h_gate_up: Tensor | None, h_down: Tensor | None, grads: dict[int, Tensor]
) -> Tensor:
    run = kernels(g_TD)
    d_TF, dh = call.down.input_gradient(g_TD)
    dgate_up = run.swiglu_back(d_TF, kept.gate_up_T2F)
    call.down.parameter_gradients(g_TD, d_TF, h_down, dh, grads)  # d_TF now holds what the linear had read
    return _norm_back(call.gate_up, dgate_up, h_gate_up, call.norm2, kept.mid_TD, kept.scale2_T, g_TD, grads)


def _attend_back(
    g_TD: Tensor,
    x_TD: Tensor,
    call: _Call,
    kept: _Kept,
    h_qkv: Tensor | None,
    h_o: Tensor | None,
    raw: list[Tensor],
    grads: dict[int, Tensor],
) -> Tensor:
    run = kernels(g_TD)
    dout_TD, dh = call.o.input_gradient(g_TD)
    call.o.parameter_gradients(g_TD, kept.out_TD, h_o, dh, grads)
    pieced, delta = run.to_pieces(dout_TD, kept.out_TD, call.sight.cut, call.heads)
    dq, dk, dv = pieces.backward(pieced, delta, kept.q, kept.k_KTW, kept.v_KTW, kept.logsum, call.sight)
    dqkv = run.join_heads(dq, dk, dv, call.cos_TW, call.sin_TW, call.sight.cut, call.scaling)
    if call.head_norms:
        call.head_norms.backward(dqkv, raw, grads)
    return _norm_back(call.qkv, dqkv, h_qkv, call.norm1, x_TD, kept.scale1_T, g_TD, grads)


def _norm_back(
    group: Joined, g_TO: Tensor, h_TR: Tensor | None, norm: Any, x_TD: Tensor, scale_T: Tensor, through_TD: Tensor, grads: dict[int, Tensor]
) -> Tensor:
    """Back through a group of linears and the norm before it, to the stream of states."""
    run = kernels(x_TD)
    dn_TD, dh = group.input_gradient(g_TO)
    if group.moves:
        n_TD = run.rms_norm(x_TD, norm.weight, norm.epsilon, torch.empty_like(scale_T))
        group.parameter_gradients(g_TO, n_TD, h_TR, dh, grads)
    if norm.weight.requires_grad:
        grads[id(norm.weight)] = norm.weight_gradient(dn_TD, x_TD, scale_T)
    return run.rms_norm_back(dn_TD, x_TD, scale_T, norm.weight, through_TD)
