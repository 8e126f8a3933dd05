"""A pool of numbered places for keys and values, and the attention of rows whose tokens lie anywhere in it.

    place    1 2 3 4 5 6 7 8 9 ...        row A  places 1 2 3 4 7      rows that begin alike name the same places:
    holds    s s s s a b b A B            row B  places 1 2 3 4 6 9    nothing is copied, and a row may come or go at any step

One pass reads N tokens of several rows: one token of each row that writes, and pieces of prompts. Each layer first writes the keys and
values of all N tokens to their places, then every token looks at its row's places up to itself. So a row may also see what another row
reads in the same pass.

N tokens read now, P places, K key-value heads, H query heads, D width of a head, B rows that read one token, W longest of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.models.kernels import kernels
from luthier.models.sight import PIECE, Memory, probabilities

Places = NDArray[np.int32]


class Pool:
    """Room for the keys and values of so many tokens. Memory is touched, and so really taken, only as places are used.

    Attributes:
        size: places there are. keys, values: by layer, ``[P, K, D]``. Place 0 is nobody's: padding looks there, so it is zero.
    """

    def __init__(self, size: int, *, layers: int, heads: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.size = size
        shape = (size + 1, heads, width)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(layers)]
        for part in (*self.keys, *self.values):
            part[0].zero_()
        self.give_all()

    @classmethod
    def of(cls, config: Any, size: int, *, dtype: torch.dtype, device: torch.device) -> Pool:
        """A pool for the network of a transformers config."""
        return cls(size, **shape_of(config), dtype=dtype, device=device)

    def take(self, count: int) -> Places | None:
        """So many places, or None where there are not as many."""
        if count > self.free:
            return None
        self.free -= count
        return self._free[self.free : self.free + count][::-1].copy()

    def give_all(self) -> None:
        """All places are free."""
        self._free = np.arange(self.size, 0, -1, dtype=np.int32)  # a stack: what was used last is warm, and low places are used first
        self.free = self.size

    def give(self, places: Places) -> None:
        """Places nobody needs any more."""
        self._free[self.free : self.free + len(places)] = places[::-1]
        self.free += len(places)


def shape_of(config: Any) -> dict[str, int]:
    """Layers, key-value heads and their width in a transformers config; of a network that also sees, those of the part that writes."""
    config = config.get_text_config()
    heads = int(config.num_attention_heads)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return {
        "layers": int(config.num_hidden_layers),
        "heads": int(getattr(config, "num_key_value_heads", None) or heads),
        "width": int(width),
    }


def token_bytes(config: Any, dtype: torch.dtype) -> int:
    """Bytes that the keys and values of one token take in all layers."""
    shape = shape_of(config)
    return 2 * shape["layers"] * shape["heads"] * shape["width"] * dtype.itemsize


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive tokens of one row that are read now. places: of the whole row up to the last of them."""

    count: int
    places: Places


class Paged:
    """Who sees whom in one pass; given to a network as its `sight`.

    Args:
        stretches: in the order in which their tokens are laid out; those of one token come first.
    """

    def __init__(self, pool: Pool, stretches: list[Stretch]) -> None:
        self.pool, self.stretches = pool, stretches
        self.singles = next((i for i, s in enumerate(stretches) if s.count > 1), len(stretches))
        device = pool.keys[0].device
        self.new_N = torch.from_numpy(np.concatenate([s.places[len(s.places) - s.count :] for s in stretches]).astype(np.int64)).to(device)
        self.layer = 0

    @cached_property
    def table(self) -> tuple[Tensor, Tensor]:
        """Of rows that read one token: their places ``[B, W]``, 0 where a row has ended, and how many each has ``[B]``."""
        rows = [s.places for s in self.stretches[: self.singles]]
        places_BW = np.zeros((len(rows), max(map(len, rows))), np.int32)
        for i, row in enumerate(rows):
            places_BW[i, : len(row)] = row
        device = self.pool.keys[0].device
        return torch.from_numpy(places_BW).to(device), torch.tensor([len(row) for row in rows], device=device)

    @cached_property
    def longer(self) -> list[tuple[int, int, Tensor]]:
        """First and last token, and places, of the stretches of several tokens."""
        found, start, device = [], self.singles, self.pool.keys[0].device
        for stretch in self.stretches[self.singles :]:
            found.append((start, start + stretch.count, torch.from_numpy(stretch.places).to(device)))
            start += stretch.count
        return found

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
        """Attention of the present layer (layers are counted by calls), of all rows behind the same `lead`. Returns ``[N, H, D]``."""
        keys, values = self.pool.keys[self.layer], self.pool.values[self.layer]
        keys.index_copy_(0, self.new_N, k_KND.transpose(0, 1))
        values.index_copy_(0, self.new_N, v_KND.transpose(0, 1))
        q_NHD = (q_HND * scaling).transpose(0, 1).contiguous()
        out_NHD = torch.empty_like(q_NHD)
        if lead is not None:
            self._behind(lead, q_NHD, out_NHD, softcap, window)
            self.layer = (self.layer + 1) % len(self.pool.keys)
            return out_NHD
        if self.singles:
            q_BHD = q_NHD[: self.singles]
            run = kernels(q_BHD)
            out_NHD[: self.singles] = run.paged(q_BHD, keys, values, *self.table, softcap=softcap or 0.0, window=window or 0)
        for first, last, places in self.longer:
            _piecewise(q_NHD[first:last], keys[places], values[places], out_NHD[first:last], softcap, window)
        self.layer = (self.layer + 1) % len(self.pool.keys)
        return out_NHD

    def _behind(self, lead: Memory, q_NHD: Tensor, out_NHD: Tensor, softcap: float | None, window: int | None) -> None:
        """Every stretch by itself, with what a method laid before its row (``models/lead.py``)."""
        keys, values, first = self.pool.keys[self.layer], self.pool.values[self.layer], 0
        before_k, before_v = lead.keys.transpose(0, 1), lead.values.transpose(0, 1)
        for stretch in self.stretches:
            places, last = torch.from_numpy(stretch.places).to(keys.device), first + stretch.count
            k_SKD, v_SKD = torch.cat([before_k, keys[places]]), torch.cat([before_v, values[places]])
            _piecewise(q_NHD[first:last], k_SKD, v_SKD, out_NHD[first:last], softcap, window)
            first = last


def _piecewise(q_NHD: Tensor, k_SKD: Tensor, v_SKD: Tensor, out_NHD: Tensor, softcap: float | None, window: int | None) -> None:
    """The last N of S tokens look back; no more than `PIECE` of them at once."""
    tokens, heads, width = q_NHD.shape
    seen, kv_heads = k_SKD.shape[:2]
    k_KSD, v_KSD = k_SKD.transpose(0, 1), v_SKD.transpose(0, 1)
    for first in range(0, tokens, PIECE):
        last = min(first + PIECE, tokens)
        upto = seen - tokens + last
        q_KMD = q_NHD[first:last].transpose(0, 1).reshape(kv_heads, -1, width)
        p_KMS = probabilities(q_KMD, k_KSD[:, :upto], looking=last - first, softcap=softcap, window=window)
        out_NHD[first:last] = torch.bmm(p_KMS, v_KSD[:, :upto]).view(heads, -1, width).transpose(0, 1)
