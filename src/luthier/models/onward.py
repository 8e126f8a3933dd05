"""Onward: attention of prompts whose beginnings are known already. Only the rest goes through the network; it sees both.

    index   0 1 2 3 | 4 5 6  | 7 8 9 10
    token   S S A A | a a a  | B b b b      large letters: keys and values are known; N = 6 tokens are read

T tokens of the forest, N of them read now, K key-value heads, H query heads, D width of a head, L layers.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.models.pieces import gather
from luthier.models.sight import Memory, Sight, Span, probabilities


class Onward:
    """Given to a network as its `sight`, with the tokens of `new_N` laid out. Remembers all keys and values, known and new.

    Args:
        sight: of the whole forest.
        held: known keys and values ``[L, 2, K, T, D]``, anything where they are not known; left out, nothing is known.
        known_T: bool, which tokens are known: of each path a beginning, never all of it.

    Attributes:
        memories: keys and values by layer, filled while reading.
    """

    def __init__(self, sight: Sight, held: Tensor | None = None, known_T: NDArray[np.bool_] | None = None) -> None:
        self.held, self.memories = held, list[Memory]()
        known_T = np.zeros(len(sight.ends_T), bool) if known_T is None else known_T
        self.new_N = np.flatnonzero(~known_T)
        before = np.concatenate([[0], np.cumsum(~known_T)])  # tokens read before index i
        self.pieces: list[tuple[int, int, tuple[Span, ...]]] = []  # first and last of those read, and what they see
        for piece in sight.pieces:
            first, last = int(before[piece.start]), int(before[piece.end])
            if first < last:
                self.pieces.append((first, last, piece.seen))

    def attend(
        self,
        q_HND: Tensor,
        k_KND: Tensor,
        v_KND: Tensor,
        *,
        scaling: float,
        softcap: float | None = None,
        window: int | None = None,
        lead: Memory | None = None,
    ) -> Tensor:
        """Attention of the present layer (layers are counted by calls), behind the keys and values of `lead`. Returns ``[N, H, D]``."""
        keys, values = (k_KND, v_KND) if self.held is None else self._joined(k_KND, v_KND)
        self.memories.append(Memory(keys, values))
        heads, rows, width = q_HND.shape
        kv_heads = k_KND.shape[0]
        q_HND = q_HND * scaling
        out_NHD = q_HND.new_empty(rows, heads, width)
        for first, last, seen in self.pieces:
            q_KMD = q_HND[:, first:last].reshape(kv_heads, -1, width)
            k_KSD, v_KSD = gather(keys, seen), gather(values, seen)
            if lead is not None:
                k_KSD, v_KSD = torch.cat([lead.keys, k_KSD], dim=1), torch.cat([lead.values, v_KSD], dim=1)
            p_KMS = probabilities(q_KMD, k_KSD, looking=last - first, softcap=softcap, window=window)
            out_NHD[first:last] = torch.bmm(p_KMS, v_KSD).view(heads, -1, width).transpose(0, 1)
        return out_NHD

    def _joined(self, k_KND: Tensor, v_KND: Tensor) -> tuple[Tensor, Tensor]:
        assert self.held is not None
        keys, values = self.held[len(self.memories)]
        new_N = torch.from_numpy(self.new_N).to(keys.device)
        keys[:, new_N], values[:, new_N] = k_KND, v_KND
        return keys, values
