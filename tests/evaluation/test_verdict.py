"""The verdict: its words, its edge cases, and two properties: antisymmetry and coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.evaluation.verdict import paired, verdict

ACCURACY = {"metric": "label accuracy", "unit": "points of label accuracy", "scale": 100.0}


def test_better_is_said_with_interval_and_rows() -> None:
    base, tuned = [0.0] * 120 + [1.0] * 120, [0.0] * 80 + [1.0] * 160
    found = verdict(base, tuned, **ACCURACY)  # type: ignore[arg-type]
    assert found.better == "tuned"
    assert found.sentence.startswith("Tuned is better by 16.7 points of label accuracy (95% interval ")
    assert found.sentence.endswith(", n=240).")
    assert (found.base, round(found.tuned, 1)) == (50.0, 66.7)
    assert 0 < found.low < found.difference < found.high


def test_worse_is_said_with_positive_numbers() -> None:
    found = verdict([1.0] * 60, [0.0] * 20 + [1.0] * 40, **ACCURACY)  # type: ignore[arg-type]
    assert found.better == "base"
    assert "Tuned is worse by 33.3 points" in found.sentence
    assert "-" not in found.sentence


def test_lower_is_better_turns_the_verdict_around() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(2.0, 0.1, 50)
    found = verdict(base, base - 0.4 + rng.normal(0, 0.05, 50), metric="bits per byte", higher_is_better=False)
    assert found.better == "tuned"
    assert "better by 0.398" in found.sentence


def test_no_difference_is_a_result() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 2, 200).astype(float)
    other = scores.copy()
    flipped = rng.choice(200, 40, replace=False)
    other[flipped] = 1 - other[flipped]
    found = verdict(scores, other, **ACCURACY)  # type: ignore[arg-type]
    assert found.better == "none"
    assert found.sentence.startswith("No difference shown in label accuracy: tuned minus base is ")


def test_equal_scores_show_no_difference() -> None:
    assert (
        verdict([1, 0, 1] * 20, [1, 0, 1] * 20).sentence
        == "No difference shown in score: base and tuned score the same on each of 60 rows."
    )


@pytest.mark.parametrize("differing", [1, 5])
def test_fewer_than_six_differing_rows_prove_nothing(differing: int) -> None:
    found = verdict([0.0] * 240, [1.0] * differing + [0.0] * (240 - differing))
    assert found.better == "none"
    assert f"only {differing} of 240 rows differ" in found.sentence


def test_every_row_better_by_the_same_is_better() -> None:
    found = verdict([0.0] * 40, [1.0] * 40, **ACCURACY)  # type: ignore[arg-type]
    assert (found.better, found.low, found.high) == ("tuned", 100.0, 100.0)


@pytest.mark.parametrize(("rows", "words"), [(0, "0 rows compared"), (1, "1 row compared")])
def test_too_few_rows_say_nothing(rows: int, words: str) -> None:
    found = verdict([0.0] * rows, [1.0] * rows)
    assert found.better == "none"
    assert words in found.sentence


def test_small_samples_warn() -> None:
    assert "Only 12 rows" in verdict([0.0] * 12, [1.0] * 12).warning
    assert verdict([0.0] * 30, [1.0] * 30).warning == ""


def test_unpaired_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="3 scores of base against 2"):
        verdict([1, 2, 3], [1, 2])


def test_weights_make_it_a_ratio_of_sums() -> None:
    nats, size = np.array([2.0, 9.0, 4.0, 8.0]), np.array([1.0, 3.0, 2.0, 10.0])
    found = paired(nats / size, (nats - 1) / size, weights=size)
    assert found.difference == pytest.approx(-4 / 16)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40))
def test_swapping_the_models_swaps_the_verdict(pairs: list[tuple[int, int]]) -> None:
    left, right = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    there, back = verdict(left, right, resamples=300), verdict(right, left, resamples=300)
    assert there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
    assert {there.better, back.better} in ({"none"}, {"tuned", "base"})


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng, truth, hits = np.random.default_rng(7), 0.15, 0
    for trial in range(150):
        base = rng.random(80) < 0.6
        tuned = np.where(base, rng.random(80) < 0.9, rng.random(80) < 0.525)  # E[tuned] - E[base] = 0.54 + 0.21 - 0.6 = 0.15
        found = paired(base, tuned, resamples=400, seed=trial)
        hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 150 <= 0.99
