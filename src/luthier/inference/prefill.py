"""Prompts laid out as one forest: what they begin with in common is read once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.models.sight import Sight

SHARE_AT_LEAST = 12
"""Shorter common beginnings are read again: one more node costs more calls than it saves (as in ``engine/tree.py``)."""

Prompt = list[int]


@dataclass(frozen=True)
class Forest:
    """Sorted prompts in depth-first order, T tokens in all.

    Attributes:
        tokens_T, positions_T, ends_T: as ``models/sight.py`` wants them.
        paths: for each prompt the indices of its tokens, first to last.
    """

    tokens_T: NDArray[np.int64]
    positions_T: NDArray[np.int64]
    ends_T: NDArray[np.int64]
    paths: list[NDArray[np.int64]]

    def sight(self) -> Sight:
        """Who sees whom; remembers keys and values."""
        return Sight(self.ends_T, self.positions_T, keep=True)


def shared(left: Prompt, right: Prompt) -> int:
    """How many tokens two prompts begin with in common."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def forest(prompts: list[Prompt]) -> Forest:
    """Lay out prompts that are already sorted, so that equal beginnings are neighbours."""
    tokens: list[int] = []
    positions: list[int] = []
    closed: list[tuple[NDArray[np.int64], int]] = []
    path, paths, last = np.empty(0, np.int64), [], Prompt()
    for prompt in prompts:
        common = shared(last, prompt)
        common = common if common >= SHARE_AT_LEAST else 0
        closed.append((path[common:], len(tokens)))  # these subtrees end where the new branch begins
        path = np.concatenate([path[:common], np.arange(len(tokens), len(tokens) + len(prompt) - common)])
        tokens.extend(prompt[common:])
        positions.extend(range(common, len(prompt)))
        paths.append(path)
        last = prompt
    ends = np.full(len(tokens), len(tokens))
    for indices, end in closed:
        ends[indices] = end
    return Forest(np.array(tokens, np.int64), np.array(positions, np.int64), ends, paths)
