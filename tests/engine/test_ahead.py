"""Plans are made one step ahead, and nobody can tell but by the clock."""

import threading

import numpy as np
import pytest

from luthier.core.errors import StorageError
from luthier.core.spec import TrainSpec
from luthier.engine.ahead import Ahead, planned
from luthier.engine.loop import fit
from luthier.engine.session import Session
from luthier.methods import full
from luthier.objectives import sft

TRAIN = TrainSpec(epochs=2, rows_per_step=4, learning_rate=1e-3, tokens_per_pack=64)


def session(model, rows):
    method = full.Method()
    method.attach(model)
    return Session(model, method, sft.Objective(), rows=rows, train=TRAIN)


def planners():
    return [thread for thread in threading.enumerate() if thread.name.startswith("plan of step")]


def same(left, right):
    return (
        [row.source for row in left.rows] == [row.source for row in right.rows]
        and (left.weight, left.learned, left.tokens) == (right.weight, right.learned, right.tokens)
        and all(np.array_equal(a.tokens_T, b.tokens_T) for a, b in zip(left.packs, right.packs, strict=True))
    )


def test_the_next_step_is_planned_in_a_thread_and_none_behind_the_last(bushy_rows):
    rows, made = bushy_rows()[:6], []

    def make(step, budget):
        made.append((step, threading.current_thread() is threading.main_thread()))
        return planned(rows[2 * step : 2 * step + 2], budget)

    ahead = Ahead(make, 3)
    for step in range(3):
        assert same(ahead.take(step, 64), planned(rows[2 * step : 2 * step + 2], 64))
    ahead.close()
    assert made == [(0, True), (1, False), (2, False)]
    assert not planners()


def test_another_step_or_budget_gets_its_own_plan(bushy_rows):
    rows = bushy_rows()

    def make(step, budget):
        return planned(rows[step : step + 2], budget)

    ahead = Ahead(make, 9)
    for step, budget in ((0, 64), (5, 64), (6, 40), (2, 40), (3, 40)):
        assert same(ahead.take(step, budget), make(step, budget))
    ahead.close()


def test_sums_are_those_of_the_rows(bushy_rows):
    rows = bushy_rows()
    plan = planned(rows, 50)
    sequences = [s for row in rows for s in row.sequences]
    assert plan.tokens == sum(len(s.tokens) for s in sequences)
    assert plan.learned == sum(len(pack.rows_N) for pack in plan.packs)
    assert plan.weight == pytest.approx(sum(pack.count("weight") for pack in plan.packs))
    assert planned(rows, 50, per="row").weight == len(rows) == sum(pack.count("row") for pack in plan.packs)


class Torn(list):
    """Rows of which one cannot be read."""

    def __getitem__(self, index):
        if index == 9:
            raise StorageError("Row 9 is torn.", where="tokens.arrow", remedy="Make it again.")
        return super().__getitem__(index)


def test_what_cannot_be_planned_is_raised_in_its_own_step(tiny_model, bushy_rows):
    model, rows = tiny_model(), Torn(bushy_rows())
    run = session(model, rows)
    hit = next(step for step in range(run.steps) if 9 in run.order.rows(step))
    assert hit > 0, "the thread has to meet it"
    done = []
    with pytest.raises(StorageError, match="Row 9 is torn"):
        done.extend(event.step for event in fit(run))
    assert done == list(range(1, hit + 1)), "every step before it was taken"
    assert not planners()


def test_a_loop_that_is_left_leaves_no_thread(tiny_model, bushy_rows):
    loop = fit(session(tiny_model(), bushy_rows()))
    next(loop)
    loop.close()
    assert not planners()


def test_a_session_moved_to_another_step_goes_on_as_if_it_had_come_there(tiny_model, bushy_rows):
    rows = bushy_rows()
    straight, moved = session(tiny_model(), rows), session(tiny_model(), rows)
    losses = [event.loss for event in fit(straight)]
    weights, optimiser = straight.method.state(straight.model), straight.optimiser.state()
    for _ in range(3):
        moved.advance()
    kept = {k: v.clone() for k, v in moved.method.state(moved.model).items()}, {k: v.clone() for k, v in moved.optimiser.state().items()}
    moved.advance()
    moved.method.load_state(moved.model, kept[0])
    moved.optimiser.load_state(kept[1])
    moved.step = 3
    assert [event.loss for event in fit(moved)] == losses[3:]
    assert all((moved.method.state(moved.model)[k] == v).all() for k, v in weights.items())
    assert all((moved.optimiser.state()[k] == v).all() for k, v in optimiser.items())
