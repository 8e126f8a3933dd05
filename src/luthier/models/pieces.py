"""Attention over a token tree, piece by piece (see ``sight.py``): forward, and backward from what forward kept.

Queries, outputs and their gradients lie piece by piece: the tokens of a piece take ``[K, G n, W]`` in one run of memory, so that every
matmul reads and writes in place. Keys and values lie ``[K, T, W]``, because a piece sees spans of them.

T tokens of a pack, n tokens of a piece, S tokens it sees, H query heads, K key-value heads, G = H / K, W width of a head.
Gradients (FlashAttention, arXiv 2205.14135, eq. 4-6, without its tiling): ``dV = P^T dO``, ``dP = dO V^T``,
``dS = P * (dP - rowsum(dO * O))``, ``dQ = dS K``, ``dK = dS^T Q``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from luthier.models.kernels import kernels

if TYPE_CHECKING:
    from luthier.models.sight import Piece, Sight, Span


def gather(x_KTW: Tensor, spans: tuple[Span, ...]) -> Tensor:
    """The tokens of `spans`, a view where there is one span."""
    pieces = [x_KTW[:, start:end] for start, end in spans]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)


def forward(q: Tensor, k_KTW: Tensor, v_KTW: Tensor, sight: Sight, logsum: Tensor) -> Tensor:
    """Softmax attention where the rule of sight allows it.

    Args:
        q: rotated, scaled queries, piece by piece, T x H x W numbers. logsum: float32 ``[T H]``, filled for `backward`.

    Returns:
        ``[T, H, W]`` in size, piece by piece.
    """
    out, run = torch.empty_like(q), kernels(q)
    if run.attend(q, k_KTW, v_KTW, sight.tree, out, logsum):
        return out
    for piece, rows, stacked in _each(sight, q, k_KTW.shape[0]):
        p = torch.bmm(stacked, gather(k_KTW, piece.seen).transpose(1, 2))
        run.causal_softmax(p, logsum[rows], piece.end - piece.start)
        torch.bmm(p, gather(v_KTW, piece.seen), out=out.view(-1, out.shape[-1])[rows].view(stacked.shape))
    return out


def backward(
    g: Tensor, delta: Tensor, q: Tensor, k_KTW: Tensor, v_KTW: Tensor, logsum: Tensor, sight: Sight
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `q` (piece by piece), keys and values.

    Args:
        g: gradient of the output, piece by piece. delta: float32 ``rowsum(g * out)``. The rest as `forward` had it.
    """
    width, run = q.shape[-1], kernels(q)
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k_KTW), torch.empty_like(v_KTW)
    if run.attend_back(g, delta, q, k_KTW, v_KTW, logsum, sight.tree, (dq, dk, dv)):
        return dq, dk, dv
    dk.zero_()
    dv.zero_()
    for piece, rows, stacked in _each(sight, q, k_KTW.shape[0]):
        k, v = gather(k_KTW, piece.seen), gather(v_KTW, piece.seen)
        grad = g.view(-1, width)[rows].view(stacked.shape)
        p, ds = torch.bmm(stacked, k.transpose(1, 2)), torch.bmm(grad, v.transpose(1, 2))
        run.causal_softmax_back(p, ds, logsum[rows], delta[rows], piece.end - piece.start)
        torch.bmm(ds, k, out=dq.view(-1, width)[rows].view(stacked.shape))
        _add(dk, piece.seen, torch.bmm(ds.transpose(1, 2), stacked))
        _add(dv, piece.seen, torch.bmm(p.transpose(1, 2), grad))
    return dq, dk, dv


def _each(sight: Sight, q: Tensor, kv_heads: int) -> Iterator[tuple[Piece, slice, Tensor]]:
    """Every piece, the rows of W numbers that are its own, and its queries ``[K, G n, W]``."""
    heads, width = q.shape[-2], q.shape[-1]
    flat = q.view(-1, width)
    for piece in sight.pieces:
        rows = slice(piece.start * heads, piece.end * heads)
        yield piece, rows, flat[rows].view(kv_heads, -1, width)


def _add(target_KTW: Tensor, spans: tuple[Span, ...], x_KSW: Tensor) -> None:
    offset = 0
    for start, end in spans:
        target_KTW[:, start:end] += x_KSW[:, offset : offset + end - start]
        offset += end - start
