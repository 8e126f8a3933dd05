"""Several graders as one: their mean, by weight, or what a formula makes of them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from luthier.core.errors import SpecError
from luthier.core.spec import Strict
from luthier.evaluation.graders import Grade, grader
from luthier.evaluation.graders._formula import formula

MOST = 16


class Options(Strict):
    """The graders."""

    graders: dict[str, dict[str, Any]]
    """By name, each as it would stand alone."""
    weights: dict[str, float] = Field(default_factory=dict)
    """By name; those that are not named count 1."""
    calculate_output: str = ""
    """A formula over the graders' names, as on the wire: ``0.8 * exact + 0.2 * near``; in the place of the mean."""


def prepare(options: Options) -> None:
    """Refuse a grader that would not do, one within another, and a weight of none."""
    strange = sorted(options.weights.keys() - options.graders.keys())
    nested = sorted(name for name, told in options.graders.items() if told.get("type") == "multi")
    if strange or nested or not 0 < len(options.graders) <= MOST or min(options.weights.values(), default=1.0) < 0:
        what = (
            f"weights name {strange[0]!r}, which is no grader" if strange else f"it needs 1 to {MOST} graders that are not multi themselves"
        )
        raise SpecError(f"The grader multi does not do: {what}.", remedy="Correct it; weights are 0 or more.", code="bad_value")
    _parts(options)
    if options.calculate_output:
        formula(options.calculate_output, options.graders)


def grade(options: Options, item: dict[str, Any], said: str) -> float:
    """0 to 1."""
    grades = {name: part(item, said) for name, part in _parts(options).items()}
    if options.calculate_output:
        return formula(options.calculate_output, options.graders)(grades)
    weights = {name: options.weights.get(name, 1.0) for name in options.graders}
    total = sum(weights.values())
    return sum(weights[name] * found for name, found in grades.items()) / total if total else 0.0


def _parts(options: Options) -> dict[str, Grade]:
    return {name: grader(told, path=f"objective.grader.graders.{name}") for name, told in options.graders.items()}
