"""The tree of known beginnings: every token has one place, whoever shares it; nothing is let go while a row stands on it."""

import random

import numpy as np
import torch

from luthier.inference.serving.places import Known, Node
from luthier.models.pool import Pool


def known(size: int = 100) -> Known:
    return Known(Pool(size, layers=1, heads=1, width=2, dtype=torch.float32, device=torch.device("cpu")))


def put(tree: Known, tokens: list[int], owner: str | None = None) -> Node:
    node, found = tree.follow(tree.root(owner), tokens, 0, len(tokens))
    have = sum(map(len, found))
    places = tree.pool.take(len(tokens) - have)
    assert places is not None
    return tree.grow(node, tokens[have:], places) if have < len(tokens) else node


def path(tree: Known, tokens: list[int], owner: str | None = None) -> list[int]:
    return [int(n) for part in tree.follow(tree.root(owner), tokens, 0, len(tokens))[1] for n in part]


def test_what_begins_alike_lies_at_the_same_places() -> None:
    tree = known()
    put(tree, [1, 2, 3, 4, 5])
    before = path(tree, [1, 2, 3, 4, 5])
    put(tree, [1, 2, 3, 9])
    assert path(tree, [1, 2, 3, 9])[:3] == before[:3]
    assert path(tree, [1, 2, 3, 4, 5]) == before
    assert path(tree, [1, 2, 8]) == before[:2]
    assert path(tree, [7]) == [] == path(tree, [1, 2], owner="desk")
    assert tree.size == 6 == 100 - tree.pool.free


def test_the_longest_unused_goes_first_and_what_is_held_stays() -> None:
    tree = known(12)
    held = put(tree, [1, 2, 3, 4])
    tree.hold(held)
    put(tree, [1, 2, 5, 6])
    put(tree, [7, 8, 9])
    path(tree, [1, 2, 5, 6])
    assert (tree.held, tree.loose) == (4, 5)
    assert tree.make_room(5)
    assert path(tree, [7]) == [] and len(path(tree, [1, 2, 5, 6])) == 4
    assert tree.make_room(8) and len(path(tree, [1, 2, 3, 4])) == 4 and len(path(tree, [1, 2, 5])) == 2
    assert not tree.make_room(9)
    tree.release(held)
    assert tree.make_room(12) and (tree.size, tree.held) == (0, 0)


def test_a_forgotten_adapter_gives_all_back() -> None:
    tree = known()
    put(tree, [1, 2, 3], owner="desk")
    put(tree, [1, 2, 4], owner="desk")
    put(tree, [1, 2, 3])
    tree.forget("desk")
    assert tree.size == 3 and tree.pool.free == 97


def test_numbers_hold_over_a_long_random_life() -> None:
    """Rows come, hold, go; places are never lost, never in two nodes."""
    source, tree = random.Random(1), known(300)
    standing: list[Node] = []
    for _ in range(400):
        tokens = [source.choice((1, 2)) for _ in range(source.randint(1, 12))]
        if tree.make_room(len(tokens)):
            node = put(tree, tokens)
            tree.hold(node)
            standing.append(node)
        while len(standing) > 6 or (standing and source.random() < 0.3):
            tree.release(standing.pop(source.randrange(len(standing))))
        nodes = _nodes(tree.root(None))
        everything = np.concatenate([node.places for node in nodes]) if nodes else np.empty(0)
        assert len(set(everything.tolist())) == len(everything) == tree.size == 300 - tree.pool.free
        assert tree.held == sum(len(node.tokens) for node in nodes if node.held)
        assert all(len(node.tokens) == len(node.places) and node.tokens[0] == key for parent in nodes for key, node in parent.below.items())


def _nodes(root: Node) -> list[Node]:
    return [node for child in root.below.values() for node in [child, *_nodes(child)]]
