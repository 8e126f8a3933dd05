"""Packing: a step's rows are cut into forests of a token budget. How they are cut never changes the result, only what it costs.

A cut lays out again what the rows on both sides of it share, and every forest costs something by itself. Both are counted in tokens, and
the cheapest of some ways to cut is taken: neighbours stay together and the cuts fall between subtrees (exact, by dynamic programming); or
subtrees are put together like parcels, largest first, where rows share little but differ in length.

Letters: n groups (the sequences of one row, which stay together), sorted by tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from luthier.core.sequence import Row, Sequence
from luthier.engine.tree import Grove, Pack, grove, plant

FOREST_COSTS = 128
"""What one more forest costs, in tokens: weights are read and calls are made once more (130 to 150 tokens on a CPU, docs/log.md)."""

BALANCE_COSTS = 16
"""What a full forest costs beside an empty one, in tokens, growing with its square: of equal cuts the even one, which peaks lower."""

PARCELS = 256
"""Most groups for which parcels are tried: the time grows with their square, and so many fill forests well in any order."""

GOOD_ENOUGH = 0.02
"""Parcels are not tried where neighbours are this close to the least any cut can cost."""

CAPACITIES = 4
"""Sizes between fair shares and the whole budget for which parcels are tried."""

Bins = list[list[int]]


def packs(rows: Iterable[Row], budget: int, *, parts: int = 1) -> list[Pack]:
    """Forests that hold every sequence of `rows` once: few, of about equal size, with much in common; largest first.

    The sequences of one row (the two answers of a pair, the forks of a dialogue) stay together. ``Pack.sequences_N`` and
    ``Pack.members`` count the sequences of all rows in the order given.

    Args:
        budget: most tokens in one forest. A row that alone is longer gets a forest of its own.
        parts: processes that share the forests; what counts is what the busiest of them computes.
    """
    sequences: list[Sequence] = []
    owners: list[int] = []
    for number, row in enumerate(rows):
        sequences.extend(row.sequences)
        owners.extend([number] * len(row.sequences))
    trees = grove(sequences)
    groups = _Groups(trees, owners)
    bins = min(_ways(groups, budget, parts), key=lambda way: groups.cost(way, budget, parts))
    order = np.argsort([-size for size in groups.sizes(bins)], kind="stable").tolist()
    return [plant(trees, sorted(place for group in bins[number] for place in groups.places[group]), owners=owners) for number in order]


def _ways(groups: _Groups, budget: int, parts: int) -> Iterable[Bins]:
    together = neighbours(groups.alone_n, groups.link_n, budget)
    yield together
    total = int(groups.alone_n.sum() - groups.link_n.sum())
    fewest = parts * -(-total // (parts * budget))  # equal forests, as many for each process
    least = total + fewest * FOREST_COSTS
    if groups.cost(together, budget, parts) <= (1 + GOOD_ENOUGH) * least:
        return
    capacities = np.linspace(-(-total // fewest), budget, CAPACITIES).astype(int).tolist()
    if parts > 1:
        yield from (neighbours(groups.alone_n, groups.link_n, capacity) for capacity in capacities)
    if len(groups.places) <= PARCELS:
        link_nn = _links(groups.link_n)
        yield from (parcels(groups.alone_n, link_nn, capacity) for capacity in capacities)


class _Groups:
    """The rows of a step as units of packing.

    Attributes:
        places: of each group, where its sequences stand in the grove.
        alone_n: tokens laid out for the group by itself. link_n: how many of them it shares with the group before it; 0 for the first.
    """

    def __init__(self, trees: Grove, owners: list[int]) -> None:
        self.shared = trees.shared_n.tolist()
        found: dict[int, list[int]] = {}
        for place, member in enumerate(trees.order):
            found.setdefault(owners[member], []).append(place)
        self.places = list(found.values())
        self.lengths = [len(trees.sequences[member].tokens) for member in trees.order]
        self.alone_n = np.array([self._tokens(places) for places in self.places])
        self.link_n = np.zeros(len(self.places), np.int64)
        for i in range(1, len(self.places)):
            first = self.places[i][0]
            before = max(place for place in self.places[i - 1] if place < first)
            self.link_n[i] = min(self.shared[before + 1 : first + 1])

    def _tokens(self, places: list[int]) -> int:
        """Tokens laid out for the sequences at ascending `places`."""
        total, before = self.lengths[places[0]], places[0]
        for place in places[1:]:
            total += self.lengths[place] - min(self.shared[before + 1 : place + 1])
            before = place
        return total

    def sizes(self, bins: Bins) -> list[int]:
        """Tokens laid out in each forest."""
        return [self._tokens(sorted(place for group in chosen for place in self.places[group])) for chosen in bins]

    def cost(self, bins: Bins, budget: int, parts: int) -> float:
        """What computing these forests costs, in tokens: `parts` times what the busiest process does if they go round, largest first."""
        costs = _cost(np.sort(self.sizes(bins))[::-1], budget)
        return parts * max(float(costs[rank::parts].sum()) for rank in range(parts))


def _cost(sizes: NDArray[np.int64], budget: int) -> NDArray[np.float64]:
    costs: NDArray[np.float64] = FOREST_COSTS + sizes + BALANCE_COSTS * (sizes / budget) ** 2
    return costs


def neighbours(alone_n: NDArray[np.int64], link_n: NDArray[np.int64], budget: int) -> Bins:
    """The cheapest cut of the groups in their order: ``best[j]`` is the cost of the first j, over all places of the last cut."""
    count = len(alone_n)
    up_to = np.concatenate([[0], np.cumsum(alone_n - link_n)])
    best, cut = np.zeros(count + 1), np.zeros(count + 1, np.int64)
    first = 0
    for j in range(1, count + 1):
        while first < j - 1 and up_to[j] - up_to[first] + link_n[first] > budget:
            first += 1
        sizes = up_to[j] - up_to[first:j] + link_n[first:j]
        costs = best[first:j] + np.where((sizes <= budget) | (np.arange(first, j) == j - 1), _cost(sizes, budget), np.inf)
        cut[j] = first + int(costs.argmin())
        best[j] = costs.min()
    bins: Bins = []
    while count:
        bins.append(list(range(int(cut[count]), count)))
        count = int(cut[count])
    return bins[::-1]


def _links(link_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """What any two groups share: the least of the links between them."""
    count = len(link_n)
    link_nn = np.zeros((count, count), np.int64)
    for i in range(count - 1):
        link_nn[i, i + 1 :] = np.minimum.accumulate(link_n[i + 1 :])
    return link_nn + link_nn.T


def parcels(alone_n: NDArray[np.int64], link_nn: NDArray[np.int64], capacity: int) -> Bins:
    """Largest group first, each to the forest with which it shares most, the fullest of equals; a new one where it fits nowhere."""
    bins: Bins = []
    filled = np.zeros(len(alone_n), np.int64)  # tokens of each forest
    common_bn = np.zeros_like(link_nn)  # what each forest shares with each group
    for group in np.argsort(-alone_n, kind="stable").tolist():
        grown = filled[: len(bins)] + alone_n[group] - common_bn[: len(bins), group]
        worth = np.where(grown <= capacity, common_bn[: len(bins), group] * (capacity + 1) + filled[: len(bins)], -1)
        chosen = int(worth.argmax()) if bins else -1
        if chosen < 0 or worth[chosen] < 0:
            chosen = len(bins)
            bins.append([])
        bins[chosen].append(group)
        filled[chosen] += alone_n[group] - common_bn[chosen, group]
        np.maximum(common_bn[chosen], link_nn[group], out=common_bn[chosen])
    return bins
