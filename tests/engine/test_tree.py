"""The forest: every path can be read back, and sight is what the paths say."""

import numpy as np
import pytest

from luthier.engine.pack import packs
from luthier.engine.tree import plant


def seen_by_path(pack, sequences):
    """Dense sight from first principles: a token sees the tokens on its own path up to itself."""
    sight = np.zeros((len(pack.tokens_T),) * 2, bool)
    places = []
    for member in pack.members:
        tokens = sequences[member].tokens
        place = walk(pack, tokens)
        places.append(place)
        for depth, index in enumerate(place):
            sight[index, place[: depth + 1]] = True
    return sight, places


def walk(pack, tokens):
    """Layout indices of a path, found by following the tree: the child of `i` at depth d + 1 inside its subtree with the right token."""
    place, start, end = [], 0, len(pack.tokens_T)
    for depth, token in enumerate(tokens):
        found = [i for i in range(start, end) if pack.positions_T[i] == depth and pack.tokens_T[i] == token and (depth == 0 or i < end)]
        index = max(found, key=lambda i: reach(pack, i, tokens[depth:]))
        place.append(index)
        start, end = index + 1, pack.ends_T[index]
    return place


def reach(pack, index, tokens):
    """How far `tokens` can be followed from `index`."""
    if pack.tokens_T[index] != tokens[0]:
        return 0
    if len(tokens) == 1:
        return 1
    children = [i for i in range(index + 1, pack.ends_T[index]) if pack.positions_T[i] == pack.positions_T[index] + 1]
    return 1 + max((reach(pack, i, tokens[1:]) for i in children), default=0)


@pytest.mark.parametrize("share_at_least", [1, 12])
def test_sight_is_what_the_paths_say(bushy_rows, share_at_least):
    sequences = [s for row in bushy_rows(count=4) for s in row.sequences]
    pack = plant(sequences, share_at_least=share_at_least)
    sight, _ = seen_by_path(pack, sequences)
    assert (pack.sight().dense().numpy() == sight).all()


def test_shared_beginnings_are_laid_out_once(bushy_rows):
    rows = bushy_rows()
    sequences = [s for row in rows for s in row.sequences]
    true = sum(len(s.tokens) for s in sequences)
    alone = plant(sequences, share_at_least=10_000)
    shared = plant(sequences)
    assert len(alone.tokens_T) == true
    assert len(shared.tokens_T) <= true - 4 * 24, "five rows begin with the same 24 tokens"


def test_every_learned_pair_is_there_once(bushy_rows):
    rows = bushy_rows()
    sequences = [s for row in rows for s in row.sequences]
    for budget in (30, 90, 10_000):
        found = {}
        for pack in packs(rows, budget):
            assert (pack.positions_T[pack.rows_N] >= 0).all()
            for member in pack.members:
                mine = pack.sequences_N == member
                depth = pack.positions_T[pack.rows_N[mine]] + 1
                assert member not in found
                found[member] = (depth, pack.targets_N[mine], pack.weights_N[mine])
        assert sorted(found) == list(range(len(sequences)))
        for member, (depth, targets, weights) in found.items():
            learned = np.flatnonzero(sequences[member].weights)
            assert (depth == learned).all()
            assert (targets == sequences[member].tokens[learned]).all()
            assert (weights == sequences[member].weights[learned]).all()


def test_budget_is_kept_and_rows_stay_whole(bushy_rows):
    rows = bushy_rows(count=30)
    longest = max(sum(len(s.tokens) for s in row.sequences) for row in rows)
    for pack in packs(rows, longest + 20):
        assert len(pack.tokens_T) <= longest + 20
    forked = packs(rows, longest + 20)
    last_two = {sum(len(r.sequences) for r in rows) - 2, sum(len(r.sequences) for r in rows) - 1}
    assert any(last_two <= set(pack.members) for pack in forked), "the two forks of one row stay together"


def test_pieces_cover_every_token_once_and_agree_with_the_rule(bushy_rows, monkeypatch):
    monkeypatch.setattr("luthier.models.sight.PIECE", 7)
    pack = plant([s for row in bushy_rows(count=4) for s in row.sequences])
    sight = pack.sight()
    dense = np.zeros_like(sight.dense().numpy())
    covered = np.zeros(len(pack.tokens_T), int)
    for piece in sight.pieces:
        covered[piece.start : piece.end] += 1
        seen = np.concatenate([np.arange(a, b) for a, b in piece.seen])
        for token in range(piece.start, piece.end):
            dense[token, seen[: len(seen) - (piece.end - 1 - token)]] = True
    assert (covered == 1).all()
    assert (dense == sight.dense().numpy()).all()
