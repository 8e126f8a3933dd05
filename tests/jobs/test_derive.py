"""The dial becomes numbers; what the user said stays."""

import math
from dataclasses import replace

import pytest

from luthier.core.errors import SpecError
from luthier.core.spec import Spec
from luthier.jobs.derive import DRAFT_STEPS, Facts, derive

DESK = Facts(rows=600, tokens=150_000, learned=20_000, longest=300, longest_answer=40, parameters=8_000_000, dtype="bfloat16", context=1024)


def test_nothing_stays_auto_but_what_answers_and_memory_decide() -> None:
    spec, notes = derive(Spec(), DESK)
    left = [f"{name}.{key}" for name in ("model", "train", "evaluate") for key, value in getattr(spec, name) if value == "auto"]
    assert left == ["train.tokens_per_pack", "train.optimiser", "train.recompute", "train.offload", "train.compile", "evaluate.metric"]
    assert {note.data["field"] for note in notes} == {
        "rows_per_step",
        "epochs",
        "learning_rate",
        "validate_every",
        "save_every",
        "max_tokens",
    }
    assert any("learning_rate" in note.text and "lora on a 8 M model" in note.text for note in notes)


def test_what_was_said_stays_and_is_not_told() -> None:
    asked = Spec.parse({"train": {"epochs": 2, "rows_per_step": 4, "learning_rate": 1e-5, "save_every": 7}, "evaluate": {"max_tokens": 9}})
    spec, notes = derive(asked, DESK)
    assert (spec.train.epochs, spec.train.rows_per_step, spec.train.learning_rate, spec.train.save_every, spec.evaluate.max_tokens) == (
        2,
        4,
        1e-5,
        7,
        9,
    )
    assert {note.data["field"] for note in notes} == {"validate_every"}
    assert spec.train.max_steps == 300


@pytest.mark.parametrize(
    ("accelerators", "asked", "expected", "told"), [(0, "auto", 1, 0), (1, "auto", 1, 0), (4, "auto", 4, 1), (4, 2, 2, 0)]
)
def test_processes_are_as_many_as_accelerators(accelerators: int, asked: int | str, expected: int, told: int) -> None:
    spec, notes = derive(Spec.parse({"train": {"processes": asked}}), replace(DESK, accelerators=accelerators))
    assert spec.train.processes == expected
    assert sum(note.data["field"] == "processes" for note in notes) == told


def test_deriving_twice_changes_nothing() -> None:
    once, _ = derive(Spec(), DESK)
    twice, notes = derive(once, DESK)
    assert (twice, notes) == (once, [])


@pytest.mark.parametrize(("rows", "expected"), [(1, 1), (10, 1), (50, 2), (160, 8), (320, 16), (100_000, 16)])
def test_few_rows_take_small_steps(rows: int, expected: int) -> None:
    assert derive(Spec(), replace(DESK, rows=rows))[0].train.rows_per_step == expected


def test_a_draft_is_cut_short_unless_epochs_were_said() -> None:
    many = replace(DESK, rows=100_000)
    assert derive(Spec(quality="draft"), many)[0].train.max_steps == DRAFT_STEPS
    said = Spec.parse({"quality": "draft", "train": {"epochs": 1}})
    assert derive(said, many)[0].train.max_steps == math.ceil(100_000 / 16)


def test_best_takes_longer_than_good_than_draft() -> None:
    steps = [derive(Spec.parse({"quality": quality}), DESK)[0].train.max_steps for quality in ("draft", "good", "best")]
    assert steps == sorted(steps)
    assert len(set(steps)) == 3


def test_full_tuning_takes_a_tenth_and_large_models_less() -> None:
    lora = derive(Spec(), DESK)[0].train.learning_rate
    full = derive(Spec.parse({"method": "full"}), DESK)[0].train.learning_rate
    assert full == pytest.approx(lora / 10)
    rates = [
        derive(Spec(), replace(DESK, parameters=n))[0].train.learning_rate for n in (8_000_000, 500_000_000, 3_000_000_000, 30_000_000_000)
    ]
    assert rates == sorted(rates, reverse=True)
    assert 1e-4 <= rates[-1] <= rates[2] <= 2e-4


@pytest.mark.parametrize(("method", "rate"), [("lora", 1e-3), ("prefix", 1e-2), ("full", 3e-4), ("head", 1e-2)])
def test_beside_a_new_head_some_methods_take_less(method: str, rate: float) -> None:
    spec, notes = derive(Spec.parse({"method": method, "objective": {"name": "predict", "kind": "class", "labels": ["a", "b"]}}), DESK)
    assert spec.train.learning_rate == rate
    assert any(f"{method} on a 8 M model, beside a new head" in note.text for note in notes)


def test_answers_have_room_but_not_more_than_the_model() -> None:
    assert derive(Spec(), DESK)[0].evaluate.max_tokens == 76
    assert derive(Spec(), replace(DESK, longest_answer=2000))[0].evaluate.max_tokens == 1024


def test_small_bases_and_few_rows_take_more_passes() -> None:
    large = replace(DESK, rows=50_000, parameters=3_000_000_000)
    passes = [derive(Spec(), facts)[0].train.epochs for facts in (large, replace(large, rows=600), DESK)]
    assert passes == [3, 4, 6]


def test_layerwise_updates_stay_in_one_process() -> None:
    asked = {"train": {"optimiser": "layerwise"}}
    assert derive(Spec.parse(asked), replace(DESK, accelerators=4))[0].train.processes == 1
    asked["train"]["processes"] = 2
    with pytest.raises(SpecError, match=r"layerwise works in one process, but train\.processes = 2"):
        derive(Spec.parse(asked), DESK)
