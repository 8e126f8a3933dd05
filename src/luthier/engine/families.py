"""Families: rows that begin alike, found from columns of tokens instead of one row after another, and dealt into steps together.

A million rows take seconds: at every level (16, 32, 64 ... tokens beyond what all rows have in common) the next tokens of all rows that
still have company are folded into one number a row, and equal numbers are a family.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from luthier.core.sequence import Rows

FIRST = 16
"""Tokens beyond the common beginning that make a family: fewer are hardly worth a node (`engine/tree.py`)."""

DEEPEST = 4096
"""Rows that have so many tokens in common are not told apart any further."""

COLUMNS = 16
"""Tokens of all rows looked at together: 64 MB for a million rows."""

Ints = NDArray[np.int64]


@runtime_checkable
class Columns(Protocol):
    """Rows that can give a column of tokens at once (`data.tokens.TokenTable`)."""

    def beginnings(self, rows_n: Ints, start: int, stop: int) -> NDArray[np.int32]: ...


def families(rows: Rows) -> list[Ints]:
    """Which rows begin alike, level by level.

    Returns:
        of each level, the family of each row: equal numbers belong together, a row without company has a number of its own. The first
        level is always there, deeper ones while any rows have company.
    """
    count = len(rows)
    active, start = np.arange(count), _common(rows)
    folded, width = np.zeros(count, np.uint64), FIRST
    levels: list[Ints] = []
    while not levels or (len(active) and width <= DEEPEST):
        whole, folded_n = _fold(rows, active, start, width, folded[active])
        active = active[whole]
        folded[active] = folded_n[whole]
        start, width = start + width, width if not levels else 2 * width
        _, family, size = np.unique(folded[active], return_inverse=True, return_counts=True)
        company = size[family] > 1
        active, family = active[company], family[company]
        levels.append(np.arange(count, 2 * count))
        levels[-1][active] = family
    return levels


def deal(levels: list[Ints], *, slot: int, offset: int, dice: np.random.Generator) -> Ints:
    """One pass over all rows: a walk through the tree of families, siblings in random order, cut into slots whose order is random.

    Args:
        slot: rows that stay together. offset: rows before the first whole slot, so that slots end where steps end.
    """
    count = len(levels[0])
    walk = np.lexsort((dice.permutation(count), *(dice.permutation(2 * count)[family] for family in reversed(levels))))
    slots = walk[offset : offset + (count - offset) // slot * slot].reshape(-1, slot)
    return np.concatenate([walk[:offset], dice.permutation(slots).ravel(), walk[offset + slots.size :]])


def _common(rows: Rows) -> int:
    """How many tokens all rows begin with."""
    everyone = np.arange(len(rows))
    for start in range(0, DEEPEST, COLUMNS):
        block = _beginnings(rows, everyone, start, start + COLUMNS)
        differs = (block != block[0]).any(0) | (block[0] < 0)
        if differs.any():
            return start + int(differs.argmax())
    return DEEPEST


def _fold(rows: Rows, active: Ints, start: int, width: int, folded: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Fold the next `width` tokens into one number a row; says also which rows have so many."""
    whole = np.ones(len(active), np.bool_)
    for first in range(start, start + width, COLUMNS):
        for column in _beginnings(rows, active, first, first + COLUMNS).T:
            whole &= column >= 0
            folded = (folded ^ column.astype(np.uint64)) * np.uint64(
                0x9E3779B97F4A7C15
            )  # Knuth's multiplicative hashing, 2**64 / golden ratio
            folded ^= folded >> np.uint64(29)
    return whole, folded


def _beginnings(rows: Rows, chosen: Ints, start: int, stop: int) -> NDArray[np.int32]:
    if isinstance(rows, Columns):
        return rows.beginnings(chosen, start, stop)
    found = np.full((len(chosen), stop - start), -1, np.int32)
    for place, row in enumerate(chosen.tolist()):
        tokens = rows[row].sequences[0].tokens[start:stop]
        found[place, : len(tokens)] = tokens
    return found
