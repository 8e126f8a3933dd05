"""The wire's graders in each of the shapes it has for several of them."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.core.errors import SpecError
from luthier.jobs.asked_grades import graded

EXACT = {"type": "string_check", "name": "exact", "operation": "eq"}


@pytest.mark.parametrize("graders", [{"exact": EXACT}, [EXACT], EXACT], ids=["names", "a list", "one"])
def test_several_graders_in_any_shape(graders: Any) -> None:
    told = {"type": "multi", "name": "all", "graders": graders, "calculate_output": "exact"}
    objective = graded(told, {}, None)
    plain = {"type": "string_check", "operation": "eq"}
    assert objective == {"name": "grpo", "grader": {"type": "multi", "graders": {"exact": plain}, "calculate_output": "exact"}}


@pytest.mark.parametrize(("share", "samples"), [(1e-5, 2), (0.5, 4), (1.0, 8), (10.0, 80)])
def test_the_compute_multiplier_says_how_many_answers(share: float, samples: int) -> None:
    assert graded(EXACT, {"compute_multiplier": share}, None)["samples"] == samples


def test_the_luthier_object_wins() -> None:
    assert graded(EXACT, {}, {"samples": 3, "beta": 0.0}) | {"samples": 3, "beta": 0.0} == graded(EXACT, {}, {"samples": 3, "beta": 0.0})


@pytest.mark.parametrize("graders", [[1], {"a": 1}, "many", None])
def test_shapes_that_are_none(graders: Any) -> None:
    with pytest.raises(SpecError) as refused:
        graded({"type": "multi", "graders": graders}, {}, None)
    assert refused.value.where == "method.reinforcement.grader"
