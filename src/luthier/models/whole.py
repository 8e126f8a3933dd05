"""The other rule of sight: all tokens of a row see each other, and nobody else. Encoders read so; rows lie end to end in a pack.

    index   0 1 2 3 | 4 5 6 7 8        rows   [0,4)   each of its tokens sees [0,4)
    token   a a a a | b b b b b               [4,9)   each of its tokens sees [4,9)

Nothing can be shared: the state of a token depends on what stands behind it, too.

T tokens of a pack, R rows, N tokens of the longest, H query heads, K key-value heads, D width of a head.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from luthier.models.sight import Sight, Span


class Whole:
    """Given to a network as its `sight`.

    Args:
        sight: of a pack in which every tree is one row.

    Attributes:
        spans: first token of each row, and the one behind its last.
    """

    def __init__(self, sight: Sight) -> None:
        firsts = np.flatnonzero(sight.positions_T == 0)
        self.spans: list[Span] = list(pairwise([*firsts.tolist(), len(sight.positions_T)]))
        ends_R = np.array([end for _, end in self.spans])
        alone = np.array_equal(sight.ends_T, np.repeat(ends_R, np.diff([*firsts, len(sight.positions_T)])))
        assert alone, "rows that are read whole share no beginning: lay them apart"

    def attend(
        self, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, *, scaling: float, softcap: float | None = None, window: int | None = None
    ) -> Tensor:
        """Attention within each row. Returns ``[T, H, D]``.

        Args:
            window: tokens this far apart or farther do not see each other.
        """
        assert softcap is None, "no encoder has a soft cap"
        if q_HTD.device.type == "cpu":
            return self._row_by_row(q_HTD, k_KTD, v_KTD, scaling, window)
        return self._padded(q_HTD, k_KTD, v_KTD, scaling, window)

    def _row_by_row(self, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, scaling: float, window: int | None) -> Tensor:
        """What is computed is what is seen."""
        rows = []
        for start, end in self.spans:
            q, k, v = (x[:, start:end].unsqueeze(0) for x in (q_HTD, k_KTD, v_KTD))
            band = _band(end - start, window, q.device) if window is not None and end - start > window else None
            rows.append(F.scaled_dot_product_attention(q, k, v, attn_mask=band, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])[0])
        return torch.cat(rows, dim=1).transpose(0, 1)

    def _padded(self, q_HTD: Tensor, k_KTD: Tensor, v_KTD: Tensor, scaling: float, window: int | None) -> Tensor:
        """One call for all rows, laid into a rectangle: on an accelerator calls are dearer than the padding."""
        where, longest = q_HTD.device, max(end - start for start, end in self.spans)
        places_RN = torch.tensor([[min(start + n, end - 1) for n in range(longest)] for start, end in self.spans], device=where)
        there_RN = torch.tensor([[start + n < end for n in range(longest)] for start, end in self.spans], device=where)
        seen = there_RN[:, None, None, :]
        if window is not None and longest > window:
            seen = seen & _band(longest, window, where)
        q, k, v = (x[:, places_RN].transpose(0, 1) for x in (q_HTD, k_KTD, v_KTD))
        out_RHND = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
        return out_RHND.transpose(1, 2)[there_RN]


def _band(length: int, window: int, where: torch.device) -> Tensor:
    """Who is near whom, ``[length, length]``."""
    place = torch.arange(length, device=where)
    return (place[:, None] - place[None, :]).abs() < window
