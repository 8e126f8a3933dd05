"""Attention over a token tree on an accelerator: one FlexAttention call (arXiv 2412.05496), its block mask read off the nodes.

The kernel works on blocks of ``BLOCK x BLOCK`` tokens: it skips those where nobody sees anybody, takes those where everybody sees
everybody without looking, and asks the rule of sight token by token in the rest. Because token ``i`` sees ``j`` iff ``j <= i < end[j]``,
which block is which follows from the largest and smallest ``end`` of each block: no ``T x T`` matrix is ever made.

    block of j wholly before block of i     seen      iff  max end[j] >  first i
                                            complete  iff  min end[j] >  last i
    the same block                          asked token by token
    block of j behind block of i            never

T tokens of a pack, N blocks, H query heads, K key-value heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from luthier.models.device import send
from luthier.models.sight import Sight

BLOCK = 128
"""Tokens of a block, the granularity FlexAttention's kernels are tuned for (its own default)."""

Bools = NDArray[np.bool_]


def attention(
    q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, sight: Sight, scaling: float, *, softcap: float | None = None, window: int | None = None
) -> Tensor:
    """What `sight.TreeAttention` computes, in one kernel; also knows soft caps and sliding windows.

    Returns:
        ``[T, H, D]``.
    """
    out_1HTD = _kernel(q_HTD.device.type)(
        q_HTD[None],
        k_KTD[None],
        v_KTD[None],
        score_mod=None if softcap is None else _capped(softcap),
        block_mask=block_mask(sight, q_HTD.device, window=window),
        scale=scaling,
        enable_gqa=q_HTD.shape[0] != k_KTD.shape[0],
    )
    return cast(Tensor, out_1HTD[0].transpose(0, 1))


@cache
def _kernel(device: str) -> Callable[..., Any]:
    """Compiled once for all lengths and trees; on a CPU the plain form, which tests compare with."""
    return cast(Callable[..., Any], flex_attention if device == "cpu" else torch.compile(flex_attention, dynamic=True))


def block_mask(sight: Sight, device: torch.device, *, window: int | None = None) -> BlockMask:
    """The rule of sight as FlexAttention takes it; made once per pack and window, shared by all layers.

    Args:
        window: how far back a token sees, counted on its path.
    """
    key = (device, window)
    if key not in sight.masks:
        sight.masks[key] = _block_mask(sight, device, window)
    return cast(BlockMask, sight.masks[key])


def _block_mask(sight: Sight, device: torch.device, window: int | None) -> BlockMask:
    asked_NN, complete_NN = blocks(sight.ends_T, sight.positions_T, window)
    (num_asked, asked), (num_complete, complete) = (_listed(chosen, device) for chosen in (asked_NN, complete_NN))
    ends_T = send(sight.ends_T, device)
    positions_T = None if window is None else send(sight.positions_T, device)
    length = len(sight.ends_T)
    return BlockMask.from_kv_blocks(
        num_asked,
        asked,
        num_complete,
        complete,
        BLOCK_SIZE=BLOCK,
        mask_mod=_rule(ends_T, positions_T, window),
        seq_lengths=(length, length),
    )


def blocks(ends_T: NDArray[np.int64], positions_T: NDArray[np.int64], window: int | None = None) -> tuple[Bools, Bools]:
    """Which pairs of blocks are asked token by token, and which are complete, ``[N, N]`` each (row sees column).

    With a window the blocks that are asked may include a few where nobody sees anybody; never the other way round.
    """
    starts_N = np.arange(0, len(ends_T), BLOCK)
    last_N = np.minimum(starts_N + BLOCK, len(ends_T)) - 1
    before = starts_N[None, :] < starts_N[:, None]
    seen = before & (np.maximum.reduceat(ends_T, starts_N)[None, :] > starts_N[:, None])
    complete = before & (np.minimum.reduceat(ends_T, starts_N)[None, :] > last_N[:, None])
    if window is not None:
        low_N, high_N = np.minimum.reduceat(positions_T, starts_N), np.maximum.reduceat(positions_T, starts_N)
        seen &= low_N[:, None] - high_N[None, :] < window
        complete &= high_N[:, None] - low_N[None, :] < window
    return (seen & ~complete) | np.eye(len(starts_N), dtype=bool), complete


def _listed(chosen_NN: Bools, device: torch.device) -> tuple[Tensor, Tensor]:
    """Per row how many columns are chosen, ``[1, 1, N]``, and which, those first, ``[1, 1, N, N]``."""
    order_NN = np.argsort(~chosen_NN, axis=1, kind="stable").astype(np.int32)
    return send(chosen_NN.sum(1, dtype=np.int32)[None, None], device), send(order_NN[None, None], device)


def _rule(ends_T: Tensor, positions_T: Tensor | None, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    def sees(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i < ends_T[j])

    if positions_T is None or window is None:
        return sees

    def sees_near(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j <= i) & (i < ends_T[j]) & (positions_T[i] - positions_T[j] < window)

    return sees_near


def _capped(softcap: float) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Gemma 2's bound on scores."""

    def cap(score: Tensor, batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return cap
