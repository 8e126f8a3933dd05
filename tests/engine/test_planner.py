"""The tape counts, small networks tell of large ones, and the least costly way that fits is taken."""

import pytest
import torch

from luthier.core.spec import TrainSpec
from luthier.engine.budget import TOKENS_PER_PACK
from luthier.engine.planner import Need, Planner, Way
from luthier.engine.probe import _phases, heaviest, working
from luthier.engine.session import Session
from luthier.engine.tape import Tape
from luthier.methods import full, lora
from luthier.objectives import sft

TRAIN = TrainSpec(epochs=2, rows_per_step=4, learning_rate=1e-3)


def test_the_tape_counts_what_is_alive_and_nothing_twice():
    outside = torch.ones(1000)
    with Tape() as tape:
        held = torch.zeros(250) + 1  # two storages of 1,000 bytes, one of them gone at once
        assert (tape.live, tape.peaks["begin"]) == (1000, 2000)
        view = held.view(5, 50)[1:]
        view.mul_(2)
        outside.add_(1)
        assert tape.live == 1000, "views and work in place make nothing new"
        tape.enter("later")
        del held
        assert tape.live == 1000, "the view keeps the storage"
        del view
        assert tape.live == 0
        torch.zeros(10)
    assert tape.begins == {"begin": 0, "later": 1000}
    assert tape.peaks == {"begin": 2000, "later": 1000}


def test_the_tape_sees_backward():
    weight = torch.ones(100, requires_grad=True)
    with Tape() as tape:
        loss = (weight * 2).exp().sum()
        kept = tape.live
        loss.backward()
        del loss
    assert 400 <= kept <= 1300
    assert tape.live == 400, "the gradient"


WAYS = [("adamw", False), ("adamw", True), ("layerwise", True)]


@pytest.mark.parametrize(("optimiser", "again"), WAYS)
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_one_and_two_blocks_tell_of_six(tiny_model, bushy_rows, kind, optimiser, again):
    rows = bushy_rows(count=20)
    train = TRAIN.model_copy(update={"optimiser": optimiser, "recompute": again})

    def sample(blocks, _):
        model = tiny_model(num_hidden_layers=blocks, dtype="bfloat16")
        method = full.Method() if kind == "full" else lora.Method(lora.Options(rank=4))
        method.attach(model)
        return Session(model, method, sft.Objective(), rows=rows, train=train)

    pack, _ = heaviest(rows, train, 1 << 30)
    foreseen = working(sample, pack, blocks=6, vocabulary=320, forests=1)
    seen = _phases(sample(6, 320), pack, 1)
    assert foreseen.activations == pytest.approx(seen.pop("activations"), rel=0.02)
    assert foreseen.peak == pytest.approx(max(seen.values()), rel=0.02)


def test_the_heaviest_forest_is_found_and_can_be_cut(bushy_rows):
    rows = bushy_rows(count=20)
    pack, forests = heaviest(rows, TRAIN, 1 << 30)
    assert forests == 1
    sizes = [sum(len(s.tokens) for s in row.sequences) for row in rows]
    assert max(sizes) <= len(pack.tokens_T) <= sum(sorted(sizes)[-4:])
    assert heaviest(rows, TRAIN, 48)[1] > 1
    short = pack.beginning(10)
    assert len(short.tokens_T) == 10
    assert len(short.rows_N) >= 1
    assert short.rows_N.max() < 10 >= short.ends_T.max()


@pytest.fixture
def planner(bushy_rows):
    """A planner whose ways take what a formula says: 100 for adamw, 60 and 40, a third off for recomputing, and a tenth for a halving."""

    class Formula(Planner):
        def need(self, way, *, tokens=None):
            peak = {"adamw": 100, "adamw8bit": 60, "layerwise": 40}[way.optimiser] * (0.67 if way.recompute else 1)
            return Need(way, int(peak * (1 if way.tokens_per_pack == TOKENS_PER_PACK else 0.9)), 0, 0, 0, 0, 0, 0, 10, 1)

    def make(*, full=True, **said):
        nothing = {"outline": None, "shallow": None, "begin": None}
        train = TRAIN.model_copy(update=said)
        return Formula(**nothing, rows=bushy_rows(count=20), train=train, full=full, dtype=torch.float32, program=0)

    return make


def test_the_least_costly_way_that_fits_is_taken(planner):
    taken = {room: planner().plan(room).taken for room in (100, 95, 70, 59, 45, 30)}
    assert [str(need.way) for need in taken.values()] == [
        f"adamw, {TOKENS_PER_PACK:,} tokens a forest",
        "adamw, 128 tokens a forest",
        f"adamw, {TOKENS_PER_PACK:,} tokens a forest, blocks recomputed",
        "adamw8bit, 128 tokens a forest",
        f"adamw8bit, {TOKENS_PER_PACK:,} tokens a forest, blocks recomputed",
        "layerwise, a step in one forest, blocks recomputed",
    ]


def test_nothing_fits(planner):
    plan = planner().plan(20)
    assert plan.taken is None
    assert plan.weighed[-1].way == Way("layerwise", True, TOKENS_PER_PACK), "the leanest comes last"
    assert plan.to_json()["fits"] is False


def test_what_was_said_is_not_changed(planner):
    assert {way.optimiser for way in planner(full=False).ways()} == {"adamw"}, "an adapter's state is small anyway"
    assert {way.optimiser for way in planner(optimiser="layerwise").ways()} == {"layerwise"}
    assert {way.recompute for way in planner(recompute=False).ways()} == {False}
    assert {way.tokens_per_pack for way in planner(tokens_per_pack=300).ways()} == {300}
    assert "layerwise" not in {way.optimiser for way in planner(processes=2).ways()}, "its gradient is never whole, so none can be added"
