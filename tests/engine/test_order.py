"""Which rows a step sees: a function of seed and step, every row once in an epoch, however rows are brought together."""

import itertools
import json

import numpy as np
import pytest

from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence
from luthier.core.spec import TrainSpec
from luthier.data.tokens import TokenTable
from luthier.engine.families import families
from luthier.engine.order import Order, compared

TRAIN = TrainSpec(epochs=3, rows_per_step=8, learning_rate=1e-3, group_prefixes=True, seed=5)


def row(number, tokens):
    weights = np.zeros(len(tokens), np.float32)
    weights[-1] = 1
    return Row(Source("rows", number + 1), [Sequence(np.asarray(tokens, np.int32), weights)])


def forest(prompts=15, each=6, system=40, prompt=50):
    """Rows under one system prompt, `each` of them with the same longer prompt, in an order that keeps them apart."""
    dice = np.random.default_rng(0)
    top, middle = dice.integers(0, 300, system), dice.integers(0, 300, (prompts, prompt))
    return [row(i, np.concatenate([top, middle[i % prompts], dice.integers(0, 300, 12)])) for i in range(prompts * each)]


@pytest.mark.parametrize("rows_per_step", [1, 4, 7, 8, 200])
@pytest.mark.parametrize("grouped", [False, True])
def test_every_row_once_in_every_epoch(rows_per_step, grouped):
    order = Order(forest(), TRAIN.model_copy(update={"rows_per_step": rows_per_step, "group_prefixes": grouped}))
    drawn = list(itertools.chain.from_iterable(order.rows(step) for step in range(order.steps)))
    epochs = [drawn[first : first + 90] for first in (0, 90, 180)]
    assert all(sorted(epoch) == list(range(90)) for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("grouped", [False, True])
def test_a_step_does_not_depend_on_what_was_asked_before(grouped):
    train = TRAIN.model_copy(update={"group_prefixes": grouped})
    rows = forest()
    straight = Order(rows, train)
    wanted = [straight.rows(step) for step in range(straight.steps)]
    for step in (20, 3, 33, 0):
        assert Order(rows, train).rows(step) == wanted[step] == straight.rows(step)
    other = Order(rows, train.model_copy(update={"seed": 6}))
    assert other.rows(0) != wanted[0]


def test_families_are_rows_with_equal_beginnings():
    rows = [*forest(prompts=5, each=3), *forest(prompts=2, each=2, prompt=90)]
    paths = [r.sequences[0].tokens.tolist() for r in rows]
    common = next(i for i in itertools.count() if len({path[i] for path in paths}) > 1)
    found = families(rows)
    assert [np.array_equal(a, b) for a, b in zip(found, families(TokenTable.from_rows(rows)), strict=True)] == [True] * len(found)
    for depth, level in zip((16, 32, 64, 128), found, strict=False):
        for (i, a), (j, b) in itertools.combinations(enumerate(paths), 2):
            alike = a[: common + depth] == b[: common + depth] and min(len(a), len(b)) >= common + depth
            assert (level[i] == level[j]) == alike, (depth, i, j)


def test_grouping_shares_more_and_says_what_it_does():
    rows = forest()
    order = Order(rows, TRAIN)
    note = compared(rows, order, 1024)
    assert note.data["saved"] > 0.25
    assert note.data["beginnings_in_a_step"] < 4 < note.data["beginnings_in_a_plain_step"]
    assert f"{note.data['saved']:.0%} fewer tokens" in note.text
    assert "less mixed" in note.text
    assert all(len({i % 15 for i in order.rows(step)}) >= 2 for step in range(order.steps - 1)), "never a whole step of one prompt"


def test_rows_that_share_nothing_are_only_shuffled():
    dice = np.random.default_rng(0)
    rows = [row(i, dice.integers(0, 300, 60)) for i in range(64)]
    note = compared(rows, Order(rows, TRAIN), 1024)
    assert note.data["saved"] == pytest.approx(0, abs=0.01)
    assert note.data["beginnings_in_a_step"] == note.data["beginnings_in_a_plain_step"] == 8


def test_real_rows_with_many_contexts(shared, tiny_renderer):
    """Questions about short texts, several a text; an ambiguous text begins its longer version."""
    lines = [json.loads(line) for line in (shared / "data/ev_bbq/Age.jsonl").read_text().splitlines()[:400]]
    texts = [f"{line['context']}\n{line['question']} {line['ans0']}, {line['ans1']} or {line['ans2']}?" for line in lines]
    rows = [row(i, tiny_renderer.tokenizer.encode(text)) for i, text in enumerate(texts)]
    note = compared(rows, Order(rows, TRAIN), 2048)
    assert note.data["saved"] > 0.2
