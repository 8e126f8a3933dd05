"""Beginnings that are known: for each answering adapter a tree of tokens, and the places of their keys and values.

    root of "desk" --[system prompt ......]--+--[question 1][answer 1]
                                             `--[question 2]            a row holds on to the node its own tokens continue

A piece of a prompt is put here when its reading is planned, before it is read: who is planned after it in the same pass, or later, follows
it and reads only the rest. What no row holds on to is let go when places run short, the longest unused first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from luthier.models.pool import Places, Pool

NONE = np.empty(0, np.int32)


@dataclass(eq=False, slots=True)
class Node:
    """A run of tokens. held: rows that continue it or something below it. used: when it was last asked for, as a count."""

    tokens: list[int]
    places: Places
    above: Node | None = None
    below: dict[int, Node] = field(default_factory=dict)
    held: int = 0
    used: int = 0


class Known:
    """The trees of one pool.

    Attributes:
        size: tokens in all trees. held: of these, how many some row holds on to.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool, self.size, self.held = pool, 0, 0
        self._roots: dict[str | None, Node] = {}
        self._clock = count(1)

    def root(self, owner: str | None) -> Node:
        """Where every row of `owner` (an adapter; None is the base) begins."""
        return self._roots.setdefault(owner, Node([], NONE))

    def follow(self, node: Node, tokens: list[int], start: int, end: int) -> tuple[Node, list[Places]]:
        """As far down from `node` as the tree knows ``tokens[start:end]``: the node that ends there, and the places on the way."""
        found: list[Places] = []
        while start < end and (child := node.below.get(tokens[start])) is not None:
            common = _common(child.tokens, tokens, start, end)
            if common < len(child.tokens):
                child = self._split(child, common)
            child.used = next(self._clock)
            found.append(child.places)
            node, start = child, start + common
        return node, found

    def grow(self, node: Node, tokens: list[int], places: Places) -> Node:
        """`tokens`, which `node` does not know, below it; the places are the tree's from now on. Nobody holds on to it yet."""
        child = Node(tokens, places, node, used=next(self._clock))
        node.below[tokens[0]] = child
        self.size += len(tokens)
        return child

    def hold(self, node: Node) -> None:
        """A row continues `node`: it and everything above it stays."""
        step: Node | None = node
        while step is not None:
            if step.held == 0:
                self.held += len(step.tokens)
            step.held += 1
            step = step.above

    def release(self, node: Node) -> None:
        """The reverse of `hold`."""
        step: Node | None = node
        while step is not None:
            step.held -= 1
            if step.held == 0:
                self.held -= len(step.tokens)
            step = step.above

    def remove(self, node: Node) -> None:
        """Let go of `node` and all below it, whoever holds on to it: what it was to hold was never computed."""
        for part in _all(node):
            self._give(part)
            if part.held:
                self.held -= len(part.tokens)
        if node.above is not None:
            node.above.below.pop(node.tokens[0], None)

    def forget(self, owner: str | None) -> None:
        """Let go of everything of `owner`, of whom no row is left."""
        if (root := self._roots.pop(owner, None)) is not None:
            assert root.held == 0, "a row still answers with it"
            for part in _all(root):
                self._give(part)

    def make_room(self, wanted: int) -> bool:
        """Let go of leaves, the longest unused first, until `wanted` places are free. Whether they are."""
        missing = wanted - self.pool.free
        if missing <= 0:
            return True
        leaves = [(leaf.used, id(leaf), leaf) for root in self._roots.values() for leaf in _all(root) if leaf.above and not leaf.below]
        waiting = [entry for entry in leaves if not entry[2].held]
        heapq.heapify(waiting)
        while waiting and self.pool.free < wanted:
            leaf = heapq.heappop(waiting)[2]
            above = leaf.above
            assert above is not None
            del above.below[leaf.tokens[0]]
            self._give(leaf)
            if above.above is not None and not above.below and not above.held:
                heapq.heappush(waiting, (above.used, id(above), above))
        return self.pool.free >= wanted

    @property
    def loose(self) -> int:
        """Tokens that could be let go."""
        return self.size - self.held

    def _give(self, node: Node) -> None:
        self.pool.give(node.places)
        self.size -= len(node.tokens)

    def _split(self, node: Node, length: int) -> Node:
        """Cut a node in two. The lower part stays the object that rows hold on to; the upper one is returned."""
        above = node.above
        assert above is not None
        upper = Node(node.tokens[:length], node.places[:length], above, held=node.held, used=node.used)
        above.below[upper.tokens[0]] = upper
        node.tokens, node.places, node.above = node.tokens[length:], node.places[length:], upper
        upper.below[node.tokens[0]] = node
        return upper


def _common(mine: list[int], tokens: list[int], start: int, end: int) -> int:
    """How many of `mine` are those of ``tokens[start:end]``."""
    longest = min(len(mine), end - start)
    if mine[:longest] == tokens[start : start + longest]:
        return longest
    return next(i for i in range(longest) if mine[i] != tokens[start + i])


def _all(root: Node) -> Iterator[Node]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        waiting.extend(node.below.values())
        yield node
