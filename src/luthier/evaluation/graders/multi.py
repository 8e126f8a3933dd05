"""Several graders as one: their mean, by weight, or what a formula makes of them."""

from __future__ import annotations

from collections.abc import Callable
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


def ready(options: Options) -> Grade:
    """The graders, made once for all answers.

    Raises:
        SpecError: a grader that would not do, one within another, or a weight of none.
    """
    strange = sorted(options.weights.keys() - options.graders.keys())
    nested = sorted(name for name, told in options.graders.items() if told.get("type") == "multi")
    if strange or nested or not 0 < len(options.graders) <= MOST or min(options.weights.values(), default=1.0) < 0:
        what = (
            f"weights name {strange[0]!r}, which is no grader" if strange else f"it needs 1 to {MOST} graders that are not multi themselves"
        )
        raise SpecError(f"The grader multi does not do: {what}.", remedy="Correct it; weights are 0 or more.", code="bad_value")
    parts = {name: grader(told, path=f"objective.grader.graders.{name}") for name, told in options.graders.items()}
    together = combined(options)

    def grade(item: dict[str, Any], said: str) -> float:
        return together({name: part(item, said) for name, part in parts.items()})

    return grade


def combined(options: Options) -> Callable[[dict[str, float]], float]:
    """From the grades by name to the grade of all.

    Raises:
        SpecError: the formula is none.
    """
    if options.calculate_output:
        return formula(options.calculate_output, options.graders)
    weights = {name: options.weights.get(name, 1.0) for name in options.graders}
    total = sum(weights.values())
    return lambda grades: sum(weights[name] * found for name, found in grades.items()) / total if total else 0.0


def together(told: dict[str, Any], grades: dict[str, float]) -> float:
    """The grade of a multi, as it is told on job creation, from those of its graders by name: 0 to 1."""
    options = Options(**{key: value for key, value in told.items() if key not in ("type", "name")})
    return min(1.0, max(0.0, combined(options)(grades)))
