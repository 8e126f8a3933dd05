"""The forest: every path can be read back, sight is what the paths say, and what is shared is worth it."""

import itertools

import numpy as np
import pytest

from luthier.core.example import Example, Source
from luthier.core.sequence import Row, Sequence
from luthier.data.read import read
from luthier.engine.pack import _Groups, neighbours, packs
from luthier.engine.tree import grove, plant


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


@pytest.mark.parametrize("node_costs", [0, 10, 10_000])
def test_sight_is_what_the_paths_say(bushy_rows, monkeypatch, node_costs):
    monkeypatch.setattr("luthier.engine.tree.NODE_COSTS", node_costs)
    sequences = [s for row in bushy_rows(count=4) for s in row.sequences]
    pack = plant(grove(sequences))
    sight, _ = seen_by_path(pack, sequences)
    assert (pack.sight().dense().numpy() == sight).all()


def test_shared_beginnings_are_laid_out_once(bushy_rows):
    rows = bushy_rows()
    sequences = [s for row in rows for s in row.sequences]
    true = sum(len(s.tokens) for s in sequences)
    assert len(plant(grove(sequences)).tokens_T) <= true - 4 * 24, "five rows begin with the same 24 tokens"


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
    pack = plant(grove([s for row in bushy_rows(count=4) for s in row.sequences]))
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


def path(*tokens):
    return Sequence(np.array([t for part in tokens for t in part], np.int32), np.zeros(sum(map(len, tokens)), np.float32))


SYSTEM, EXAMPLES, DOCUMENT, TURN = range(100, 160), range(200, 230), range(300, 390), range(400, 425)


def test_beginnings_nest_to_any_depth():
    """System prompt, examples, document, and a dialogue that goes on: each laid out once."""
    turns = [path(SYSTEM, EXAMPLES, DOCUMENT, *([TURN] * n)) for n in (1, 2, 3)]
    other = [path(SYSTEM, EXAMPLES, range(500, 550)), path(SYSTEM, range(600, 640))]
    pack = plant(grove(turns + other))
    assert len(pack.tokens_T) == 60 + 30 + 90 + 3 * 25 + 50 + 40
    assert len(np.unique(pack.ends_T[pack.positions_T < 180])) == 3, "system, examples, and document with its dialogue"


OTHER = path(SYSTEM, range(700, 720))


@pytest.mark.parametrize(
    ("paths", "laid"),
    [
        (
            [OTHER, *(path(SYSTEM, range(3), range(10 * i, 10 * i + 9)) for i in range(1, 3))],
            60 + 20 + 2 * 12,
        ),  # three tokens of two: not worth a node
        (
            [OTHER, *(path(SYSTEM, range(3), range(10 * i, 10 * i + 9)) for i in range(1, 41))],
            60 + 20 + 3 + 40 * 9,
        ),  # three tokens of forty are
        ([path(SYSTEM, range(3)), path(SYSTEM, range(4))], 60 + 4),  # one goes on where the other ends: no node is added
        ([path(SYSTEM), path(SYSTEM)], 60),
        ([path(range(3), range(5, 9)), path(range(3), range(9, 12))], 2 * 3 + 4 + 3),
    ],
)
def test_a_node_has_to_be_worth_it(paths, laid):
    assert len(plant(grove(paths)).tokens_T) == laid


def cheapest(alone, link, budget, count):
    """Fewest tokens of any cut of neighbours into `count` forests, by trying all."""
    best = None
    for cuts in itertools.combinations(range(1, len(alone)), count - 1):
        bounds = [0, *cuts, len(alone)]
        sizes = [sum(alone[a:b]) - sum(link[a + 1 : b]) for a, b in itertools.pairwise(bounds)]
        if max(sizes) <= budget and (best is None or sum(sizes) < best):
            best = sum(sizes)
    return best


def test_cuts_fall_where_least_is_shared():
    rng = np.random.default_rng(1)
    for _ in range(20):
        alone = rng.integers(20, 60, 9)
        link = np.r_[0, rng.integers(0, 15, 8)]
        bins = neighbours(alone, link, 120)
        sizes = [int(alone[b].sum() - link[b[1:]].sum()) for b in bins]
        assert [i for b in bins for i in b] == list(range(9))
        assert max(sizes) <= 120
        assert sum(sizes) <= cheapest(alone.tolist(), link.tolist(), 120, len(bins)) + 16 * len(bins)


def test_a_prompt_is_repeated_only_in_every_forest():
    prompt = range(1000, 1300)
    rows = [Row(Source("rows", i), [path(prompt, range(40 * i, 40 * i + 40))]) for i in range(12)]
    found = packs(rows, 500)
    assert [len(pack.tokens_T) for pack in found] == [300 + 4 * 40] * 3


def test_long_rows_are_put_beside_short_ones():
    rows = [Row(Source("rows", i), [path(range(1000 * i, 1000 * i + n))]) for i, n in enumerate((700, 600, 650, 300, 320, 380))]
    assert sorted(len(pack.tokens_T) for pack in packs(rows, 1024)) == [970, 980, 1000]


@pytest.mark.parametrize("file", ["bench/works/support.jsonl", "bench/works/pairs.jsonl", "data/ft_fastchat/dummy_conversation.json"])
def test_real_steps_take_little_more_than_the_least(shared, tiny_renderer, file):
    """Tokens laid out and forests, against one forest of everything; both answers of a pair lie in one forest."""
    examples = [e for e in itertools.islice(read(shared / file), 32) if isinstance(e, Example)]
    rows = [Row(e.source, tiny_renderer.render(e)) for e in examples]
    sequences = [s for row in rows for s in row.sequences]
    least, longest = len(plant(grove(sequences)).tokens_T), max(sum(len(s.tokens) for s in row.sequences) for row in rows)
    budget = 2 * longest
    found = packs(rows, budget)
    laid = sum(len(pack.tokens_T) for pack in found)
    assert max(len(pack.tokens_T) for pack in found) <= budget
    assert len(found) <= 1.4 * laid / budget + 1
    prompt = max(_Groups(grove(sequences), list(range(len(sequences)))).link_n)
    assert laid <= least + (len(found) - 1) * prompt
    bounds = np.cumsum([0] + [len(row.sequences) for row in rows])
    for first, last in itertools.pairwise(bounds.tolist()):
        assert sum(set(range(first, last)) <= set(pack.members) for pack in found) == 1


@pytest.mark.parametrize(("parts", "sizes"), [(1, [800]), (2, [400] * 2), (4, [200] * 4)])
def test_as_many_processes_get_equal_forests(parts, sizes):
    rows = [Row(Source("rows", i), [path(range(1000 * i, 1000 * i + 100))]) for i in range(8)]
    assert [len(pack.tokens_T) for pack in packs(rows, 1024, parts=parts)] == sizes
