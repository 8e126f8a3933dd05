"""Packing: a step's rows are cut into forests of a token budget. How they are cut never changes the result."""

from __future__ import annotations

from collections.abc import Iterable

from luthier.core.sequence import Row, Sequence
from luthier.engine.tree import SHARE_AT_LEAST, Pack, plant, shared, sort_key


def packs(rows: Iterable[Row], budget: int, *, share_at_least: int = SHARE_AT_LEAST, parts: int = 1) -> list[Pack]:
    """Forests of about equal size that hold every sequence of `rows` once.

    Rows are sorted so that equal beginnings meet; the sequences of one row (the two answers of a pair, the forks of a dialogue) stay
    together. ``Pack.sequences_N`` and ``Pack.members`` count the sequences of all rows in the order given.

    Args:
        budget: most tokens in one forest. A row that alone is longer gets a forest of its own.
        parts: aim at a multiple of this number of forests, so that as many processes have equal shares.
    """
    sequences, groups = _numbered(rows)
    groups.sort(key=lambda group: sort_key(sequences[group[0]].tokens))
    total = sum(_growth(sequences, groups, i, share_at_least) for i in range(len(groups)))
    fair = budget if total <= budget and parts == 1 else -(-total // max(1, parts * -(-total // (parts * budget))))  # equal shares
    bins: list[list[int]] = []
    filled = budget + 1
    for i, group in enumerate(groups):
        alone = sum(len(sequences[member].tokens) for member in group)
        growth = _growth(sequences, groups, i, share_at_least)
        if filled + growth > budget or filled >= fair:
            bins.append([])
            filled, growth = 0, alone
        bins[-1].extend(group)
        filled += growth
    return [plant(sequences, sorted(b, key=lambda i: sort_key(sequences[i].tokens)), share_at_least=share_at_least) for b in bins]


def _numbered(rows: Iterable[Row]) -> tuple[list[Sequence], list[list[int]]]:
    sequences: list[Sequence] = []
    groups: list[list[int]] = []
    for row in rows:
        groups.append(list(range(len(sequences), len(sequences) + len(row.sequences))))
        sequences.extend(row.sequences)
    for group in groups:
        group.sort(key=lambda i: sort_key(sequences[i].tokens))
    return sequences, groups


def _growth(sequences: list[Sequence], groups: list[list[int]], i: int, share_at_least: int) -> int:
    """Tokens that group `i` adds to a forest which ends with group ``i - 1``."""
    growth = 0
    previous = sequences[groups[i - 1][-1]].tokens if i else None
    for member in groups[i]:
        tokens = sequences[member].tokens
        common = shared(previous, tokens) if previous is not None else 0
        growth += len(tokens) - (common if common >= share_at_least else 0)
        previous = tokens
    return growth
