"""AdamW's moments in one byte each: block-wise dynamic 8-bit numbers (Dettmers and others, arXiv 2110.02861, section 2).

A block of 256 numbers is divided by its largest, and each quotient rounded to the nearest of 256 levels that are dense near one and reach
down to half a millionth. Unlike the paper we keep the *root* of the second moment: its levels then reach as far down as those of
the first, so that no number has a first moment and a second of zero, which would make its step explode.

S numbers, a multiple of the block. B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

BLOCK = 256
"""Numbers that share a scale. The paper takes 2,048; smaller blocks hold an outlier's harm to fewer neighbours for 1/64 byte a number."""

_DECADES = 7
"""Powers of ten the levels reach down (the paper's figure 2): each has half the levels of the one above."""


def levels(*, signed: bool) -> Tensor:
    """The 256 numbers a byte can say, ascending, from -1 (or 0) to 1.

    In decade ``e`` lie the middles of ``2**(6-e)`` equal parts (twice as many without sign) of ``[0.1, 1] * 10**-e``; 0 and 1 are exact.
    """
    positive = [torch.tensor([1.0], dtype=torch.float64)]
    for decade in range(_DECADES):
        parts = 2 ** (_DECADES - 1 - decade + (not signed))
        edges = torch.linspace(0.1, 1, parts + 1, dtype=torch.float64)
        positive.append((edges[:-1] + edges[1:]) / 2 * 10.0**-decade)
    upper = torch.cat(positive)
    lower = -upper[1:] if signed else upper[:0]
    return torch.cat([lower, torch.zeros(1, dtype=torch.float64), upper]).sort().values.float()


@dataclass(frozen=True)
class Packed:
    """Numbers kept in one byte each.

    Writing looks the level up by the upper half of the fp32 quotient: 65,536 entries instead of a search, 20 times faster here, and at most
    1/256 of the quotient away from the true border between two levels.
    """

    codes: Tensor
    scales: Tensor
    levels: Tensor
    table: Tensor

    @classmethod
    def zeros(cls, size: int, *, signed: bool, device: torch.device) -> Packed:
        """S zeros. `signed`: whether numbers may be negative."""
        assert size % BLOCK == 0
        numbers = levels(signed=signed).to(device)
        codes = torch.full((size,), int(numbers.abs().argmin()), dtype=torch.uint8, device=device)
        return cls(codes, torch.zeros(size // BLOCK, device=device), numbers, _nearest(numbers))

    def part(self, start: int, length: int) -> Packed:
        """The numbers from `start` on, a view; its last block is whole. `start` is a multiple of the block."""
        blocks = slice(start // BLOCK, -(-(start + length) // BLOCK))
        return replace(self, codes=self.codes[start : blocks.stop * BLOCK], scales=self.scales[blocks])

    def read(self, start: int, out_S: Tensor) -> None:
        """Fill `out_S` with the numbers from `start` on; both are multiples of the block."""
        end = start + len(out_S)
        torch.index_select(self.levels, 0, self.codes[start:end].int(), out=out_S)
        out_S.view(-1, BLOCK).mul_(self.scales[start // BLOCK : end // BLOCK, None])

    def write(self, start: int, values_S: Tensor) -> None:
        """Keep `values_S` from `start` on. `values_S` is used up."""
        end = start + len(values_S)
        blocks = values_S.view(-1, BLOCK)
        scales_B = self.scales[start // BLOCK : end // BLOCK]
        torch.amax(blocks.abs(), 1, out=scales_B)
        blocks.div_(scales_B.clamp(min=torch.finfo(torch.float32).tiny)[:, None])
        upper = values_S.bfloat16().view(torch.int16).int().bitwise_and_(0xFFFF)
        torch.index_select(self.table, 0, upper, out=self.codes[start:end])


def _nearest(levels: Tensor) -> Tensor:
    """The nearest level's byte for each bfloat16, by its bits."""
    numbers = torch.arange(2**16, device=levels.device).to(torch.int32).to(torch.int16).view(torch.bfloat16).float()
    between = (levels[:-1] + levels[1:]) / 2
    return torch.bucketize(numbers.nan_to_num(0.0), between).to(torch.uint8)
