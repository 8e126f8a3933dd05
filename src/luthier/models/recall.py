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


class Recall:
    """What B rows remember of themselves. Given to a network as its `sight`, with one token per row laid out as ``tokens_T`` (T = B);
    between two steps comes `advance`.

    Args:
        memories: keys and values of every layer over the prompts' tree, as `Onward` leaves them.
        paths: for each row the indices of its prompt's tokens in that tree.
        room: most tokens a row will still be given; memory for them is taken at once, so that nothing is copied while writing.
    """

    def __init__(self, memories: list[Memory], paths: list[NDArray[np.int64]], *, room: int) -> None:
        common = _common(paths)
        own = [path[common:] for path in paths]
        self.width = max(map(len, own))
        self.device = memories[0].keys.device
        self.pads_B = torch.tensor([self.width - len(path) for path in own], device=self.device)
        index_BW = torch.tensor([[0] * (self.width - len(path)) + path.tolist() for path in own], dtype=torch.int64, device=self.device)
        index_S = torch.tensor(paths[0][:common].tolist(), dtype=torch.int64, device=self.device)
        # keys lie transposed, [.., D, tokens]: the product with a query is then half as expensive
        self.shared = [Memory(m.keys[:, index_S].transpose(1, 2).contiguous(), m.values[:, index_S]) for m in memories]
        self.own = [Memory(_own(m.keys, index_BW, room, -1), _own(m.values, index_BW, room, -2)) for m in memories]
        self.layer = 0
        self._led: dict[int, Memory] = {}  # by layer, where there is a lead
        self._hidden: dict[int | None, Tensor | None] = {}  # of this step, by window: alike in all layers

    @property
    def seen(self) -> int:
        """Columns looked at: all that are written, and the next."""
        return self.width + 1

    def advance(self) -> None:
        """All layers have seen the rows' new tokens; the next ones come."""
        self.width += 1
        self._hidden.clear()

    def keep(self, rows: list[int]) -> None:
        """Forget all rows but these, which take the numbers 0, 1, ... in the order given."""
        index = torch.tensor(rows, device=self.device)
        self.pads_B = self.pads_B[index]
        self.own = [Memory(m.keys[index], m.values[index]) for m in self.own]
        self._hidden.clear()

    def memories(self, row: int) -> list[Memory]:
        """Keys and values of everything `row` has read and said, by layer."""
        mine = slice(int(self.pads_B[row]), self.width)
        return [
            Memory(torch.cat([s.keys, o.keys[row, ..., mine]], 2).transpose(1, 2), torch.cat([s.values, o.values[row, :, mine]], 1))
            for s, o in zip(self.shared, self.own, strict=True)
        ]

    def attend(
        self,
        q_HBD: Tensor,
        k_KBD: Tensor,
        v_KBD: Tensor,
        *,
        scaling: float,
        softcap: float | None = None,
        window: int | None = None,
        lead: Memory | None = None,
    ) -> Tensor:
        """Attention of the present layer (layers are counted by calls): each row's new token sees its prompt and what it has said.

        Args:
            lead: keys and values that all rows see before their own; the same at every call.

        Returns:
            ``[B, H, D]``.
        """
        shared, own = self._shared(lead), self._write(k_KBD, v_KBD)
        heads, rows, width = q_HBD.shape
        kv_heads, common = shared.values.shape[:2]
        group = heads // kv_heads
        q_BKGD = (q_HBD * scaling).transpose(0, 1).reshape(rows, kv_heads, group, width)
        scores = q_BKGD @ own.keys
        if common:
            q_KMD = q_BKGD.transpose(0, 1).reshape(kv_heads, rows * group, width)  # M = B * G
            scores_S = (q_KMD @ shared.keys).view(kv_heads, rows, group, common).transpose(0, 1)
            scores = torch.cat([scores_S, scores], dim=-1)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        hidden = self._out_of_sight(common, window)
        p = torch.softmax(scores if hidden is None else scores.masked_fill_(hidden, float("-inf")), dim=-1)
        out_BKGD = p[..., common:] @ own.values
        if common:
            p_KMS = p[..., :common].transpose(0, 1).reshape(kv_heads, rows * group, common)
            out_BKGD += (p_KMS @ shared.values).view(kv_heads, rows, group, width).transpose(0, 1)
        self.layer = (self.layer + 1) % len(self.own)
        return out_BKGD.reshape(rows, heads, width)

    def _shared(self, lead: Memory | None) -> Memory:
        """What all rows begin with, behind the lead."""
        shared = self.shared[self.layer]
        if lead is None:
            return shared
        if self.layer not in self._led:
            keys = torch.cat([lead.keys.transpose(1, 2), shared.keys], dim=2)
            self._led[self.layer] = Memory(keys, torch.cat([lead.values, shared.values], dim=1))
        return self._led[self.layer]

    def _out_of_sight(self, common: int, window: int | None) -> Tensor | None:
        """Padding, and what lies further back than `window`: bool ``[B, 1, 1, S + W]``, or None where everything is seen."""
        if window not in self._hidden:
            depth_BW = torch.arange(self.width + 1, device=self.device) - self.pads_B[:, None]  # of the own part; negative: padding
            shared_BS = torch.arange(common, device=self.device).expand(len(depth_BW), -1)
            hidden = torch.cat([torch.zeros_like(shared_BS, dtype=torch.bool), depth_BW < 0], dim=1)
            if window is not None:
                place = torch.cat([shared_BS, depth_BW + common], dim=1)
                hidden |= place[:, -1:] - place >= window
            self._hidden[window] = hidden[:, None, None] if hidden.any() else None
        return self._hidden[window]

    def _write(self, k_KBD: Tensor, v_KBD: Tensor) -> Memory:
        own = self.own[self.layer]
        own.keys[..., self.width] = k_KBD.transpose(0, 1)
        own.values[:, :, self.width] = v_KBD.transpose(0, 1)
        return Memory(own.keys[..., : self.seen], own.values[:, :, : self.seen])


def _common(paths: list[NDArray[np.int64]]) -> int:
    """How many tokens all paths begin with: the same node of the tree, so the same index."""
    shortest = min(map(len, paths))
    same = np.all([path[:shortest] == paths[0][:shortest] for path in paths], axis=0)
    return shortest if same.all() else int(same.argmin())


def _own(x_KTD: Tensor, index_BW: Tensor, room: int, axis: int) -> Tensor:
    """The rows' own tokens along `axis`, and room for more behind them."""
    shape = [len(index_BW), x_KTD.shape[0], x_KTD.shape[2], x_KTD.shape[2]]
    shape[axis] = index_BW.shape[1] + room
    own = x_KTD.new_empty(shape)
    own.narrow(axis, 0, index_BW.shape[1]).copy_(x_KTD[:, index_BW].transpose(0, 1).transpose(-2, axis))
    return own
