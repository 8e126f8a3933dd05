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
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.sequence import Per, Sequence
from luthier.models.sight import Sight

NODE_COSTS = 10
"""What one more node costs, in tokens laid out: attention calls once more in every layer (5 to 10 tokens, docs/log.md)."""

SPAN_COSTS = 2
"""What one more span that a node sees costs, in tokens: its keys and values are gathered before they are used. An estimate."""


@dataclass(slots=True)
class Pack:
    """One forest, ready for a forward pass. T tokens laid out, N learned (state, next token) pairs.

    Attributes:
        tokens_T: int64 token ids. positions_T: int64 depth on the path. ends_T: int64 end of the subtree.
        rows_N: int64 index of the state that predicts. targets_N: int64 token id to predict.
        weights_N: float32 how much the pair counts. sequences_N: int64 which of the planted sequences it belongs to.
        members: index of each planted sequence in the list that was given, in layout order; ``sequences_N`` indexes that list.
        owners: number of the row each member belongs to. parts: what each is within its row (`Sequence.part`).
        beside: what else is known of the learned pairs, by name (`Sequence.beside`); the first axis is N.
        media: pictures of the forest in layout order, each with the index of its path's first token.
    """

    tokens_T: NDArray[np.int64]
    positions_T: NDArray[np.int64]
    ends_T: NDArray[np.int64]
    rows_N: NDArray[np.int64]
    targets_N: NDArray[np.int64]
    weights_N: NDArray[np.float32]
    sequences_N: NDArray[np.int64]
    members: list[int]
    owners: list[int]
    parts: list[str]
    beside: dict[str, NDArray[Any]]
    media: list[tuple[int, str]] = field(default_factory=list)

    def sight(self) -> Sight:
        """Who sees whom in this pack."""
        return Sight(self.ends_T, self.positions_T)

    def count(self, per: Per) -> float:
        """How much of what a mean is taken over lies in this forest."""
        return float(len(set(self.owners))) if per == "row" else float(self.weights_N.sum(dtype=np.float64))

    def places_N(self) -> NDArray[np.int64]:
        """Which member, counted in layout order, each learned pair belongs to."""
        places = np.zeros(max(self.members, default=-1) + 1, np.int64)
        places[self.members] = np.arange(len(self.members))
        found: NDArray[np.int64] = places[self.sequences_N]
        return found

    def beginning(self, tokens: int) -> Pack:
        """The first `tokens` of the forest, everything after them forgotten; at least one is learned."""
        kept = self._whole(tokens) if self.media else min(tokens, len(self.tokens_T))
        mine = self.rows_N < kept
        mine[:1] |= not mine.any()
        return Pack(
            tokens_T=self.tokens_T[:kept],
            positions_T=self.positions_T[:kept],
            ends_T=self.ends_T[:kept].clip(max=kept),
            rows_N=np.minimum(self.rows_N[mine], kept - 1),
            targets_N=self.targets_N[mine],
            weights_N=self.weights_N[mine],
            sequences_N=self.sequences_N[mine],
            members=self.members,
            owners=self.owners,
            parts=self.parts,
            beside={name: values[mine] for name, values in self.beside.items()},
            media=[(start, reference) for start, reference in self.media if start < kept],
        )

    def _whole(self, tokens: int) -> int:
        """Tokens of the rows that fit into `tokens` from the beginning on, at least one of them: a picture is not cut."""
        ends = [end for end in sorted(set(self.ends_T.tolist())) if end <= tokens]
        return int(ends[-1] if ends else self.ends_T[0])


@dataclass(slots=True)
class Grove:
    """Sequences in the order in which they are laid out, n of them; any part of them, in this order, can be planted.

    Attributes:
        order: their indices, sorted by tokens, so that equal beginnings are neighbours.
        shared_n: how many tokens each lays out together with the one before it.
    """

    sequences: Many[Sequence]
    order: list[int]
    shared_n: NDArray[np.int64]


def grove(sequences: Many[Sequence]) -> Grove:
    """Sort sequences and decide which beginnings they share: those whose saved tokens are worth a node of their own."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].tokens.astype(">u4").tobytes())  # these bytes sort as the ids do
    paths = [sequences[i].tokens for i in order]
    common = [0, *(_common(left, right) for left, right in pairwise(paths))]
    if any(sequence.apart for sequence in sequences):
        alone = [sequences[i].apart for i in order]
        common = [0 if alone[n] or alone[n - 1] else length for n, length in enumerate(common)]
    return Grove(sequences, order, _worthwhile([len(path) for path in paths], common))


def _common(left: NDArray[np.int32], right: NDArray[np.int32]) -> int:
    """How many tokens two paths have in common at their beginning."""
    length = min(len(left), len(right))
    differs = left[:length] != right[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


def _worthwhile(lengths: list[int], common: list[int]) -> NDArray[np.int64]:
    """What sorted paths really share, given what they have in common with the one before.

    Where m paths part after L tokens that only they share, a node of L tokens saves ``(m - 1) * L``. If that is not worth it, each of
    them lays these tokens out itself and they part where the node began. A path that ends at the fork needs no node of its own.
    """
    shared_n = np.zeros(len(lengths), np.int64)
    depths, forks, ends = [0], [list[int]()], [0]  # open nodes, root first: depth of the fork, places that part there, paths that end there
    for i in range(1, len(lengths) + 1):
        depth = common[i] if i < len(lengths) else 0
        while depths[-1] > depth:
            fork, places, ending = depths.pop(), forks.pop(), ends.pop()
            above, ways = max(depth, depths[-1]), len(places) + 1
            if ending or (ways - 1) * (fork - above) >= NODE_COSTS + SPAN_COSTS * ways:
                shared_n[places] = fork
            elif depths[-1] == above:
                forks[-1].extend(places)
            else:
                depths.append(above)
                forks.append(places)
                ends.append(0)
        if depths[-1] < depth:
            depths.append(depth)
            forks.append([])
            ends.append(0)
        if i < len(lengths):
            forks[-1].append(i)
            ends[-1] += lengths[i - 1] == depth
    return shared_n


def plant(trees: Grove, places: Many[int] | None = None, *, owners: Many[int] = ()) -> Pack:
    """Lay sequences out as one forest.

    Args:
        places: which of ``trees.order`` to plant, ascending; all of them when left out.
        owners: number of the row of every sequence of `trees`; left out, each is a row of its own.
    """
    layout = _Layout()
    shared, before = trees.shared_n.tolist(), -1
    members: list[int] = []
    for place in range(len(trees.order)) if places is None else places:
        common = min(shared[before + 1 : place + 1]) if members else 0
        layout.add(trees.sequences[trees.order[place]], trees.order[place], common)
        members.append(trees.order[place])
        before = place
    return layout.pack(members, [owners[member] for member in members] if owners else list(members))


class _Layout:
    """The forest while it grows: `path` holds the layout index of each token of the latest sequence."""

    def __init__(self) -> None:
        self.tokens: list[NDArray[np.int32]] = []
        self.positions: list[NDArray[np.int64]] = []
        self.rows: list[NDArray[np.int64]] = []
        self.targets: list[NDArray[np.int32]] = []
        self.weights: list[NDArray[np.float32]] = []
        self.sequences: list[NDArray[np.int64]] = []
        self.parts: list[str] = []
        self.beside: list[dict[str, NDArray[Any]]] = []
        self.media: list[tuple[int, str]] = []
        self.size = 0
        self.path = np.empty(0, np.int64)
        self.closed: list[tuple[NDArray[np.int64], int]] = []

    def add(self, sequence: Sequence, member: int, common: int) -> None:
        new = len(sequence.tokens) - common
        self.closed.append((self.path[common:], self.size))  # their subtrees end where the new branch begins
        self.path = np.concatenate([self.path[:common], np.arange(self.size, self.size + new)])
        self.tokens.append(sequence.tokens[common:])
        self.positions.append(np.arange(common, len(sequence.tokens)))
        self.size += new
        learned = np.flatnonzero(sequence.weights)
        self.rows.append(self.path[learned - 1])
        self.targets.append(sequence.tokens[learned])
        self.weights.append(sequence.weights[learned])
        self.sequences.append(np.full(len(learned), member))
        self.parts.append(sequence.part)
        self.beside.append(sequence.beside)
        self.media += [(self.size - new, reference) for reference in sequence.media]

    def pack(self, members: list[int], owners: list[int]) -> Pack:
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
            sequences_N=np.concatenate(self.sequences),
            members=members,
            owners=owners,
            parts=self.parts,
            beside={name: np.concatenate([known[name] for known in self.beside]) for name in self.beside[0]},
            media=self.media,
        )
