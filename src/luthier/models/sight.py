"""The rule of sight: who may look at whom in a tree of tokens, and attention that obeys it.

A pack lays token paths out as a forest in depth-first order. Token ``i`` sees token ``j`` iff ``j <= i < end[j]``, where ``end[j]``
is where the subtree of ``j`` ends. A maximal run of tokens with the same end is a **node**; what a node sees is its ancestors, which
lie in a few contiguous pieces before it, and itself causally:

    index   0 1 2 3 | 4 5 6  | 7 8 9 10        nodes   [0,4)   sees itself
    token   s s s s | a a A  | b b B B                 [4,7)   sees [0,4) and itself
    end    11 .. 11 | 7 7 7  | 11 .. 11                [7,11)  sees [0,4) and itself

So attention costs what is seen, never T x T, and needs no mask besides the causal triangle of the node itself.

Shapes: T tokens of a pack, n tokens of a piece of a node, S tokens it sees, H query heads, K key-value heads, G = H / K, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface

from luthier.models import pieces
from luthier.models.kernels import Cut, Tree, kernels

if TYPE_CHECKING:
    from luthier.models.onward import Onward
    from luthier.models.recall import Recall
    from luthier.models.whole import Whole

NAME = "luthier"

PIECE = 256
"""Longest piece of a node whose scores exist at once: bounds memory at H x 256 x S and skips most of the causal triangle's empty half."""

Span = tuple[int, int]


@dataclass(slots=True, frozen=True)
class Piece:
    """Some consecutive tokens of one node and all they see.

    Attributes:
        start, end: the tokens that look.
        seen: contiguous spans of the keys they see, in path order; the last ``end - start`` of them are the piece itself, seen causally.
    """

    start: int
    end: int
    seen: tuple[Span, ...]


@dataclass(slots=True, frozen=True)
class Memory:
    """Keys and values of one layer, kept by whoever asked for them (inference): ``[K, T, D]`` each."""

    keys: Tensor
    values: Tensor


class Sight:
    """The plan of one pack: which pieces look at which spans.

    Args:
        ends_T: int64, where the subtree of each token's node ends.
        positions_T: int64, depth of each token on its path.
        lead: keys that lie before those of the pack, and that all its tokens see (``models/lead.py``).
    """

    def __init__(self, ends_T: NDArray[np.int64], positions_T: NDArray[np.int64], *, lead: int = 0) -> None:
        self.ends_T, self.positions_T, self.lead = ends_T, positions_T, lead
        self.masks: dict[Any, Any] = {}  # an accelerator's form of the rule, filled by `flex`

    @cached_property
    def depth(self) -> int:
        """Length of the longest path."""
        return int(self.positions_T.max()) + 1

    @cached_property
    def pieces(self) -> list[Piece]:
        """Every token is in exactly one piece, in layout order."""
        found: list[Piece] = []
        bounds = [0, *(np.flatnonzero(np.diff(self.ends_T)) + 1).tolist(), len(self.ends_T)]
        open_nodes: list[tuple[Span, int]] = []  # the path to the present node: (span, end of its subtree)
        for start, end in pairwise(bounds):
            while open_nodes and open_nodes[-1][1] <= start:
                open_nodes.pop()
            above = _joined([span for span, _ in open_nodes])
            for first in range(start, end, PIECE):
                last = min(first + PIECE, end)
                found.append(Piece(first, last, tuple(self._keys([*above, (start, last)]))))
            open_nodes.append(((start, end), int(self.ends_T[start])))
        return found

    def _keys(self, spans: list[Span]) -> list[Span]:
        """Where the keys of these tokens lie, those of the lead among them."""
        return _joined(spans if not self.lead else [(0, self.lead), *((start + self.lead, end + self.lead) for start, end in spans)])

    def under(self, count: int) -> Sight:
        """The same forest with `count` more tokens at the root of every tree."""
        total = len(self.ends_T) + count
        ends = np.concatenate([np.full(count, total), self.ends_T + count])
        return Sight(ends, np.concatenate([np.arange(count), self.positions_T + count]))

    def behind(self, count: int) -> Sight:
        """The same tokens, which see `count` more keys before their own."""
        return Sight(self.ends_T, self.positions_T + count, lead=count)

    @cached_property
    def cut(self) -> Cut:
        """Start and length of the piece that holds each token."""
        sizes = np.array([piece.end - piece.start for piece in self.pieces])
        starts = np.array([piece.start for piece in self.pieces])
        return Cut(torch.from_numpy(np.repeat(starts, sizes)), torch.from_numpy(np.repeat(sizes, sizes)))

    @cached_property
    def tree(self) -> Tree:
        """The pieces as numbers, for kernels that take all of them at once."""
        ends = np.cumsum([len(piece.seen) for piece in self.pieces])
        rows = [(piece.start, piece.end, end - len(piece.seen), end) for piece, end in zip(self.pieces, ends.tolist(), strict=True)]
        spans = [span for piece in self.pieces for span in piece.seen]
        return Tree(torch.tensor(rows, dtype=torch.int64), torch.tensor(spans, dtype=torch.int64))

    def dense(self) -> Tensor:
        """The rule as a bool matrix ``[T, T]`` (row sees column), for tests and for masks elsewhere."""
        index = torch.arange(len(self.ends_T))
        ends = torch.from_numpy(self.ends_T)
        return (index[None, :] <= index[:, None]) & (index[:, None] < ends[None, :])


class Led:
    """A sight behind a lead that is keys and values. Given to a network as its `sight`.

    Args:
        sight: of the tokens that are read. memories: keys and values of the lead, by layer.
    """

    def __init__(self, sight: Sight | Onward | Recall, memories: Many[Memory]) -> None:
        self.memories = memories
        self.sight = sight.behind(memories[0].keys.shape[1]) if isinstance(sight, Sight) else sight


def _joined(spans: list[Span]) -> list[Span]:
    """Neighbouring spans as one."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def probabilities(q_KMD: Tensor, k_KSD: Tensor, *, looking: int, softcap: float | None = None, window: int | None = None) -> Tensor:
    """Attention of one piece: ``softmax(q k^T)`` where it may look. `q` is already scaled.

    Args:
        q_KMD: queries, the G heads of a key-value head one after another: M = G * n.
        looking: n, how many of the S seen tokens, the last ones, are the piece itself.
        softcap: Gemma 2's bound on scores. window: how far back a token sees, counted on its path.

    Returns:
        ``[K, M, S]`` in the dtype of `q`.
    """
    scores_KMS = torch.bmm(q_KMD, k_KSD.transpose(1, 2))
    if softcap is not None:
        scores_KMS = softcap * torch.tanh(scores_KMS / softcap)
    heads, rows, seen = scores_KMS.shape
    scores = scores_KMS.view(heads, rows // looking, looking, seen)
    tail = scores[..., seen - looking :]
    hidden = torch.ones(looking, looking, dtype=torch.bool, device=scores.device).triu_(1)
    if torch.is_grad_enabled() and scores.requires_grad:
        scores = torch.cat([scores[..., : seen - looking], tail.masked_fill(hidden, float("-inf"))], dim=-1)
    else:
        tail.masked_fill_(hidden, float("-inf"))
    if window is not None and seen > window:
        own = torch.arange(seen - looking, seen, device=scores.device)
        far = own[:, None] - torch.arange(seen, device=scores.device)[None, :] >= window
        scores = scores.masked_fill(far, float("-inf"))
    return torch.softmax(scores, dim=-1).view(heads, rows, seen)


def _stack(x_HTD: Tensor, piece: Piece, kv_heads: int) -> Tensor:
    """Queries (or their gradient) of a piece, ``[K, G * n, D]``: the G heads that share a key-value head lie in one matrix."""
    part = x_HTD[:, piece.start : piece.end]
    return part.reshape(kv_heads, -1, part.shape[-1])


class TreeAttention(torch.autograd.Function):
    """Attention over a token tree for blocks that bring queries, keys and values head by head; the work is in ``pieces.py``."""

    @staticmethod
    def forward(ctx: Any, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, sight: Sight, scaling: float) -> Tensor:
        heads, tokens, width = q_HTD.shape
        scaled = q_HTD * scaling
        q = torch.cat([scaled[:, piece.start : piece.end].reshape(-1) for piece in sight.pieces]).view(tokens, heads, width)
        k_KTD, v_KTD = k_KTD.contiguous(), v_KTD.contiguous()
        logsum, out_TX = q.new_empty(tokens * heads, dtype=torch.float32), q.new_empty(tokens, heads * width)
        kernels(q).from_pieces(pieces.forward(q, k_KTD, v_KTD, sight, logsum), sight.cut, out_TX)
        ctx.save_for_backward(q, k_KTD, v_KTD, out_TX, logsum)
        ctx.sight, ctx.scaling = sight, scaling
        return out_TX.view(tokens, heads, width)

    @staticmethod
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor | None, ...]:
        q, k_KTD, v_KTD, out_TX, logsum = ctx.saved_tensors
        tokens, heads, width = grad_THD.shape
        run = kernels(q)
        g, delta = run.to_pieces(grad_THD.reshape(tokens, -1), out_TX, ctx.sight.cut, heads)
        dq, dk, dv = pieces.backward(g, delta, q, k_KTD, v_KTD, logsum, ctx.sight)
        run.from_pieces(dq, ctx.sight.cut, out := torch.empty_like(out_TX))
        return out.view(tokens, heads, width).transpose(0, 1).mul_(ctx.scaling), dk, dv, None, None


def plain_attention(
    q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, sight: Sight, scaling: float, *, softcap: float | None = None, window: int | None = None
) -> Tensor:
    """What `TreeAttention` computes, left to autograd; also knows soft caps and sliding windows. Returns ``[T, H, D]``."""
    outs = []
    for piece in sight.pieces:
        q = _stack(q_HTD * scaling, piece, k_KTD.shape[0])
        p = probabilities(q, pieces.gather(k_KTD, piece.seen), looking=piece.end - piece.start, softcap=softcap, window=window)
        out = torch.bmm(p, pieces.gather(v_KTD, piece.seen))
        outs.append(out.view(q_HTD.shape[0], -1, q_HTD.shape[-1]).transpose(0, 1))
    return torch.cat(outs)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sight: Sight | Onward | Recall | Whole | Led | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls in every layer; `sight` comes down from the family's ``states``.

    Args:
        query: ``[1, H, T, D]``; key, value: ``[1, K, T, D]``.

    Returns:
        ``[1, T, H, D]``, and no weights.
    """
    assert sight is not None, "a network loaded by Luthier is called through its family's states()"
    assert dropout == 0.0, "attention dropout is switched off at load"
    scaling = scaling if scaling is not None else query.shape[-1] ** -0.5
    if sliding_window is None:  # Qwen2-MoE keeps its window to itself: transformers puts it into the mask alone
        sliding_window = getattr(module, "sliding_window", None)
    q, k, v = query[0], key[0], value[0]
    lead = None
    if isinstance(sight, Led):
        lead, sight = sight.memories[cast(int, module.layer_idx)], sight.sight
    if not isinstance(sight, Sight):  # decoding: one token per row, which sees what the row remembers; or rows that are read whole
        more: Any = {} if lead is None else {"lead": lead}
        return sight.attend(q, k, v, scaling=scaling, softcap=softcap, window=sliding_window, **more).unsqueeze(0), None
    if lead is not None:
        k, v = torch.cat([lead.keys, k], dim=1), torch.cat([lead.values, v], dim=1)
    window = sliding_window if sliding_window is not None and sight.depth > sliding_window else None
    if q.device.type != "cpu" and not sight.lead:
        from luthier.models import flex  # here, so that nobody else pays for its import

        out_THD = flex.attention(q, k, v, sight, scaling, softcap=softcap, window=window)
    elif softcap is None and window is None and q.device.type == "cpu":
        out_THD = TreeAttention.apply(q, k, v, sight, scaling)  # type: ignore[no-untyped-call]
    else:
        out_THD = plain_attention(q, k, v, sight, scaling, softcap=softcap, window=window)
    return out_THD.unsqueeze(0), None


# No mask goes with it: for an attention whose mask it does not know transformers makes none, and does not look at the positions, for which
# an accelerator would have to be waited for.
AttentionInterface.register(NAME, attend)
