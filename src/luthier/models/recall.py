"""Recall: keys and values of rows that decode together, and the attention of one new token per row.

    prompt tree (read once)        rows                        what the next token of a row sees
    s s s s | a a | b b b          s s s s a a                 shared [s s s s]   one copy, one matmul for all rows
                                   s s s s b b b               own    [. a a x y]  right-aligned, so that every new token of
                                                                      [b b b x y]  every row is written to the same column

B rows, S tokens all rows begin with, W columns of a row's own part, K key-value heads, G query heads per key-value head, D width of a head.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.models.sight import Memory

GROWTH = 32
"""Columns added when a row's own part is full: growing copies it, so not one at a time."""


class Recall:
    """What B rows remember of themselves. Given to a network as its `sight`, with one token per row laid out as ``tokens_T`` (T = B).

    Args:
        memories: keys and values of every layer over the prompts' tree, from ``Sight(..., keep=True)``.
        paths: for each row the indices of its prompt's tokens in that tree.
    """

    def __init__(self, memories: list[Memory], paths: list[NDArray[np.int64]]) -> None:
        common = _common(paths)
        own = [path[common:] for path in paths]
        self.width = max(map(len, own))
        device = memories[0].keys.device
        self.pads_B = torch.tensor([self.width - len(path) for path in own], device=device)
        index_BW = torch.tensor([[0] * (self.width - len(path)) + path.tolist() for path in own], dtype=torch.int64, device=device)
        index_S = torch.tensor(paths[0][:common].tolist(), dtype=torch.int64, device=device)
        self.shared = [Memory(m.keys[:, index_S], m.values[:, index_S]) for m in memories]
        self.own = [Memory(_own(m.keys, index_BW), _own(m.values, index_BW)) for m in memories]
        self.layer = 0

    def keep(self, rows: list[int]) -> None:
        """Forget all rows but these, which take the numbers 0, 1, ... in the order given."""
        index = torch.tensor(rows, device=self.pads_B.device)
        self.pads_B = self.pads_B[index]
        self.own = [Memory(m.keys[index], m.values[index]) for m in self.own]

    def attend(
        self, q_HBD: Tensor, k_KBD: Tensor, v_KBD: Tensor, *, scaling: float, softcap: float | None = None, window: int | None = None
    ) -> Tensor:
        """Attention of the present layer (layers are counted by calls): each row's new token sees its prompt and what it has said.

        Returns:
            ``[B, H, D]``.
        """
        shared, own = self.shared[self.layer], self._write(k_KBD, v_KBD)
        heads, rows, width = q_HBD.shape
        kv_heads = k_KBD.shape[0]
        common, group = shared.keys.shape[1], heads // kv_heads
        q_KGBD = (q_HBD * scaling).view(kv_heads, group, rows, width)
        scores_KMS = q_KGBD.reshape(kv_heads, group * rows, width) @ shared.keys.transpose(1, 2)  # M = G * B
        scores_S = scores_KMS.view(kv_heads, group, rows, common).permute(2, 0, 1, 3)
        scores_W = q_KGBD.permute(2, 0, 1, 3) @ own.keys.transpose(2, 3)
        p_BKGS, p_BKGW = self._softmax(scores_S, scores_W, softcap, window)
        out_BKGD = p_BKGW @ own.values
        out_KMD = p_BKGS.permute(1, 2, 0, 3).reshape(kv_heads, group * rows, common) @ shared.values
        out_BKGD = out_BKGD + out_KMD.view(kv_heads, group, rows, width).permute(2, 0, 1, 3)
        self._next_layer()
        return out_BKGD.reshape(rows, heads, width)

    def _softmax(self, scores_S: Tensor, scores_W: Tensor, softcap: float | None, window: int | None) -> tuple[Tensor, Tensor]:
        scores = torch.cat([scores_S, scores_W], dim=-1)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        common, columns = scores_S.shape[-1], scores_W.shape[-1]
        depth = torch.arange(columns, device=scores.device) - self.pads_B[:, None]  # of the own part; negative: padding
        hidden = torch.cat([torch.zeros(len(depth), common, dtype=torch.bool, device=scores.device), depth < 0], dim=1)
        if window is not None:
            place = torch.cat([torch.arange(common, device=scores.device).expand(len(depth), -1), depth + common], dim=1)
            hidden |= place[:, -1:] - place >= window
        p = torch.softmax(scores.masked_fill(hidden[:, None, None], float("-inf")), dim=-1)
        return p[..., :common], p[..., common:]

    def _write(self, k_KBD: Tensor, v_KBD: Tensor) -> Memory:
        own = self.own[self.layer]
        if own.keys.shape[2] == self.width:
            own = self.own[self.layer] = Memory(_grown(own.keys), _grown(own.values))
        own.keys[:, :, self.width] = k_KBD.transpose(0, 1)
        own.values[:, :, self.width] = v_KBD.transpose(0, 1)
        return Memory(own.keys[:, :, : self.width + 1], own.values[:, :, : self.width + 1])

    def _next_layer(self) -> None:
        self.layer = (self.layer + 1) % len(self.own)
        self.width += self.layer == 0


def _common(paths: list[NDArray[np.int64]]) -> int:
    """How many tokens all paths begin with: the same node of the tree, so the same index."""
    shortest = min(map(len, paths))
    same = np.all([path[:shortest] == paths[0][:shortest] for path in paths], axis=0)
    return shortest if same.all() else int(same.argmin())


def _own(x_KTD: Tensor, index_BW: Tensor) -> Tensor:
    return x_KTD[:, index_BW].transpose(0, 1).contiguous()


def _grown(x_BKWD: Tensor) -> Tensor:
    return torch.cat([x_BKWD, x_BKWD.new_zeros(*x_BKWD.shape[:2], GROWTH, x_BKWD.shape[3])], dim=2)
