"""What is worth keeping between calls: models ready to be read, and keys and values by the tokens they were computed from.

The tokens are kept as a radix tree for each answering adapter, because keys and values depend on it:

    root of "desk" --[system prompt ......]--+--[question 1][answer 1]--[question 2]
                                             `--[question 3]

N tokens of a branch, L layers, K key-value heads, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

import torch
from torch import Tensor, nn

from luthier.inference.reader import Reader
from luthier.models.model import Model

MOST_BYTES = 512 << 20
"""Keys and values kept: of SmolLM2-135M in bfloat16 (23 KB a token) about 23,000 tokens."""

Owner = tuple[nn.Module, str | None]
"""Whose keys and values: the network, and the adapter that answered."""


@dataclass(eq=False)
class Branch:
    """A run of tokens and its keys and values.

    Attributes:
        kept: ``[L, 2, K, N, D]``. used: when it was last asked for, as a count.
    """

    tokens: list[int]
    kept: Tensor
    above: Branch | None = None
    below: dict[int, Branch] = field(default_factory=dict)
    used: int = 0

    def common(self, tokens: list[int], start: int) -> int:
        """How many of its tokens are those of `tokens` from `start`."""
        for index, (a, b) in enumerate(zip(self.tokens, tokens[start:], strict=False)):
            if a != b:
                return index
        return min(len(self.tokens), len(tokens) - start)


class Keeper:
    """Give the same one to several calls. It belongs to weights that stand still: after a change, make a new one.

    Args:
        most_bytes: keys and values kept; what was not used for longest goes first.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._roots: dict[Owner, Branch] = {}
        self._readers: dict[nn.Module, Reader] = {}
        self._clock = count(1)

    def reader(self, model: Model, *, pack: bool) -> Reader:
        """`model` made ready, once."""
        found = self._readers.get(model.network)
        if found is None or (pack and not found.pack):
            found = self._readers[model.network] = Reader(model, pack=pack)
        return found

    def find(self, owner: Owner, tokens: list[int]) -> Tensor | None:
        """Keys and values of the longest known beginning of `tokens`, ``[L, 2, K, N, D]``."""
        parts = [branch.kept[..., :length, :] for branch, length in self._path(owner, tokens)]
        return torch.cat(parts, dim=3) if parts else None

    def put(self, owner: Owner, tokens: list[int], states: Callable[[int], Tensor]) -> None:
        """Keep what was computed for `tokens`.

        Args:
            states: called with a number of tokens, gives the keys and values of the tokens behind so many, ``[L, 2, K, N, D]``.
        """
        path = self._path(owner, tokens)
        known = sum(length for _, length in path)
        if known == len(tokens):
            return
        above = self._roots.setdefault(owner, Branch([], torch.empty(0)))
        if path:
            above, length = path[-1]
            if length < len(above.tokens):
                self._split(above, length)
        branch = Branch(tokens[known:], states(known).contiguous(), above, used=next(self._clock))
        above.below[tokens[known]] = branch
        self.bytes += branch.kept.nbytes
        self._forget()

    def _path(self, owner: Owner, tokens: list[int]) -> list[tuple[Branch, int]]:
        """Branches along `tokens`, and how much of each."""
        path: list[tuple[Branch, int]] = []
        branch, start, now = self._roots.get(owner), 0, next(self._clock)
        while branch is not None and start < len(tokens) and (branch := branch.below.get(tokens[start])):
            branch.used = now
            path.append((branch, branch.common(tokens, start)))
            start += path[-1][1]
            if path[-1][1] < len(branch.tokens):
                break
        return path

    def _split(self, branch: Branch, length: int) -> None:
        """Cut a branch in two; the lower part keeps what hangs below. Copies, so that either can be let go alone."""
        lower = Branch(branch.tokens[length:], branch.kept[..., length:, :].clone(), branch, branch.below, branch.used)
        for child in lower.below.values():
            child.above = lower
        branch.tokens, branch.kept = branch.tokens[:length], branch.kept[..., :length, :].clone()
        branch.below = {lower.tokens[0]: lower}

    def _forget(self) -> None:
        """Let go of the leaves longest unused until the rest fits."""
        while self.bytes > self.most_bytes:
            oldest = min((branch for root in self._roots.values() for branch in _leaves(root)), key=lambda branch: branch.used)
            assert oldest.above is not None
            del oldest.above.below[oldest.tokens[0]]
            self.bytes -= oldest.kept.nbytes


def _leaves(root: Branch) -> Iterator[Branch]:
    waiting = list(root.below.values())
    while waiting:
        branch = waiting.pop()
        waiting.extend(branch.below.values())
        if not branch.below:
            yield branch
