"""Prompts laid out as one forest and read: what they begin with in common once, and what is known already not at all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.core.sequence import Pictured
from luthier.inference.keeper import Keeper, Owner
from luthier.inference.reader import Reader
from luthier.models.onward import Onward
from luthier.models.sight import Memory, Sight

SHARE_AT_LEAST = 12
"""Shorter common beginnings are read again: one more node costs more calls than it saves."""

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
        """Who sees whom."""
        return Sight(self.ends_T, self.positions_T)


def media_of(prompt: Prompt) -> tuple[str, ...]:
    """Pictures among the tokens of a prompt."""
    return prompt.media if isinstance(prompt, Pictured) else ()


def shared(left: Prompt, right: Prompt) -> int:
    """How many tokens two prompts begin with in common; with pictures among them none, as these all have the same tokens."""
    if media_of(left) or media_of(right):
        return 0
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))


def forest(prompts: list[Prompt], owners: list[Owner] | None = None) -> Forest:
    """Lay out prompts that are already sorted, so that equal beginnings are neighbours.

    Args:
        owners: who reads each; beginnings are shared by rows of the same owner only, also to be sorted.
    """
    tokens: list[int] = []
    positions: list[int] = []
    closed: list[tuple[NDArray[np.int64], int]] = []
    path, paths, last = np.empty(0, np.int64), [], Prompt()
    for row, prompt in enumerate(prompts):
        common = shared(last, prompt) if not owners or owners[row] == owners[row - 1] else 0
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


@dataclass(frozen=True)
class Prefill:
    """Prompts that have been laid out, and what is known of them.

    Attributes:
        trees: where every token lies. onward: who sees whom, and afterwards all keys and values. prompts: as they were given.
    """

    trees: Forest
    onward: Onward
    prompts: list[Prompt]

    def owner_N(self) -> NDArray[np.int64]:
        """For each token that is read, a prompt it belongs to."""
        owner_T = np.zeros(len(self.trees.tokens_T), np.int64)
        for row, path in enumerate(self.trees.paths):
            owner_T[path] = row
        return owner_T[self.onward.new_N]

    def read(self, reader: Reader) -> Tensor:
        """States of the last token of each prompt, ``[B, D]``."""
        new_N, device = self.onward.new_N, reader.model.device
        media = [
            (int(path[0]), reference) for path, prompt in zip(self.trees.paths, self.prompts, strict=True) for reference in media_of(prompt)
        ]
        tokens, positions = (torch.from_numpy(x[new_N]).to(device) for x in (self.trees.tokens_T, self.trees.positions_T))
        states_ND = reader.states(tokens_T=tokens, positions_T=positions, sight=self.onward, media=media)
        return states_ND[torch.from_numpy(np.searchsorted(new_N, [path[-1] for path in self.trees.paths])).to(device)]

    def states(self, row: int, start: int) -> Tensor:
        """Keys and values of a prompt's tokens from `start` on, ``[L, 2, K, N, D]``."""
        index = torch.from_numpy(self.trees.paths[row][start:])
        return stacked([Memory(m.keys[:, index], m.values[:, index]) for m in self.onward.memories])


def prefill(prompts: list[Prompt], owners: list[Owner], keeper: Keeper | None) -> Prefill:
    """Lay out sorted prompts and look up what is known of them; the last token of a prompt is always read, for its state."""
    trees = forest(prompts, owners)
    known_T, last_T, held = np.zeros(len(trees.tokens_T), bool), np.zeros(len(trees.tokens_T), bool), None
    last_T[[path[-1] for path in trees.paths]] = True
    for prompt, owner, path in zip(prompts, owners, trees.paths, strict=True):
        found = keeper.find(owner, prompt[:-1]) if keeper and not media_of(prompt) else None
        if found is None:
            continue
        if held is None:
            held = found.new_empty(*found.shape[:3], len(known_T), found.shape[4])
        start, end = int(known_T[path].sum()), found.shape[3]  # what is known of a path is a beginning
        end = min(end, int(np.argmax(last_T[path])))  # another prompt may be a beginning of this one
        if start < end:
            held[..., path[start:end], :] = found[..., start:end, :]
            known_T[path[start:end]] = True
    return Prefill(trees, Onward(trees.sight(), held, known_T), prompts)


def stacked(memories: list[Memory]) -> Tensor:
    """One tensor of all layers, as a `Keeper` keeps it."""
    return torch.stack([torch.stack([m.keys, m.values]) for m in memories])
