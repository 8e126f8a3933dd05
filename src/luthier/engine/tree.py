"""Planting: token paths become a forest in depth-first order, and what is learned becomes a list.

    paths            layout                          learned list (sequence 0 learns A, sequence 1 learns B)
    s s s s a a A    index 0 1 2 3 | 4 5 6 | 7 8 9   rows      5 | 8       the state that predicts
    s s s s b b B    token s s s s | a a A | b b B   targets   A | B       what it should predict
                     depth 0 1 2 3 | 4 5 6 | 4 5 6   weights   1 | 1
                                                     sequences 0 | 1

Where a path forks, one state predicts several next tokens and stands in `rows` several times.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.core.sequence import Sequence
from luthier.models.sight import Sight

SHARE_AT_LEAST = 12
"""Shorter common beginnings are laid out again: the extra node costs more calls than it saves arithmetic (measured, docs/log.md)."""


@dataclass(slots=True)
class Pack:
    """One forest, ready for a forward pass. T tokens laid out, N learned (state, next token) pairs.

    Attributes:
        tokens_T: int64 token ids. positions_T: int64 depth on the path. ends_T: int64 end of the subtree.
        rows_N: int64 index of the state that predicts. targets_N: int64 token id to predict.
        weights_N: float32 how much the pair counts. sequences_N: int64 which of the planted sequences it belongs to.
        members: index of each planted sequence in the list that was given, in layout order; ``sequences_N`` indexes that list.
    """

    tokens_T: NDArray[np.int64]
    positions_T: NDArray[np.int64]
    ends_T: NDArray[np.int64]
    rows_N: NDArray[np.int64]
    targets_N: NDArray[np.int64]
    weights_N: NDArray[np.float32]
    sequences_N: NDArray[np.int64]
    members: list[int]

    def sight(self, *, keep: bool = False) -> Sight:
        """Who sees whom in this pack."""
        return Sight(self.ends_T, self.positions_T, keep=keep)

    @property
    def weight(self) -> float:
        """Sum of learned weights."""
        return float(self.weights_N.sum(dtype=np.float64))


def sort_key(tokens: NDArray[np.int32]) -> bytes:
    """Bytes that sort as the token ids do, so that paths with equal beginnings become neighbours."""
    return tokens.astype(">u4").tobytes()


def shared(left: NDArray[np.int32], right: NDArray[np.int32]) -> int:
    """How many tokens two paths have in common at their beginning."""
    length = min(len(left), len(right))
    differs = np.flatnonzero(left[:length] != right[:length])
    return int(differs[0]) if len(differs) else length


def plant(sequences: Many[Sequence], members: list[int] | None = None, *, share_at_least: int = SHARE_AT_LEAST) -> Pack:
    """Lay sequences out as one forest.

    Args:
        sequences: all candidate paths.
        members: which of them to plant, already sorted by `sort_key`; all of them, sorted here, when left out.
        share_at_least: shorter common beginnings are not shared.
    """
    if members is None:
        members = sorted(range(len(sequences)), key=lambda i: sort_key(sequences[i].tokens))
    layout = _Layout()
    for member in members:
        layout.add(sequences[member], member, share_at_least)
    return layout.pack(members)


class _Layout:
    """The forest while it grows: `path` holds the layout index of each token of the latest sequence."""

    def __init__(self) -> None:
        self.tokens: list[NDArray[np.int32]] = []
        self.positions: list[NDArray[np.int64]] = []
        self.rows: list[NDArray[np.int64]] = []
        self.targets: list[NDArray[np.int32]] = []
        self.weights: list[NDArray[np.float32]] = []
        self.owners: list[NDArray[np.int64]] = []
        self.size = 0
        self.path = np.empty(0, np.int64)
        self.last = np.empty(0, np.int32)
        self.closed: list[tuple[NDArray[np.int64], int]] = []

    def add(self, sequence: Sequence, member: int, share_at_least: int) -> None:
        common = shared(self.last, sequence.tokens)
        common = common if common >= share_at_least else 0
        new = len(sequence.tokens) - common
        self.closed.append((self.path[common:], self.size))  # their subtrees end where the new branch begins
        self.path = np.concatenate([self.path[:common], np.arange(self.size, self.size + new)])
        self.tokens.append(sequence.tokens[common:])
        self.positions.append(np.arange(common, len(sequence.tokens)))
        self.size += new
        self.last = sequence.tokens
        learned = np.flatnonzero(sequence.weights)
        self.rows.append(self.path[learned - 1])
        self.targets.append(sequence.tokens[learned])
        self.weights.append(sequence.weights[learned])
        self.owners.append(np.full(len(learned), member))

    def pack(self, members: list[int]) -> Pack:
        ends = np.full(self.size, self.size)
        for indices, end in self.closed:
            ends[indices] = end
        return Pack(
            tokens_T=np.concatenate(self.tokens).astype(np.int64),
            positions_T=np.concatenate(self.positions),
            ends_T=ends,
            rows_N=np.concatenate(self.rows),
            targets_N=np.concatenate(self.targets).astype(np.int64),
            weights_N=np.concatenate(self.weights),
            sequences_N=np.concatenate(self.owners),
            members=members,
        )
