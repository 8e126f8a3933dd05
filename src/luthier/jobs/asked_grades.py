"""The wire's ``method.reinforcement``: its grader and its numbers as the objective that learns from grades."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.core.errors import LuthierError, SpecError
from luthier.evaluation.graders import GRADERS, grader

SAMPLES = 8
"""Answers to each prompt where the compute multiplier is 1: the objective's own default."""
MOST_SAMPLES = 128

PLACE = "method.reinforcement.grader"

ELSEWHERE = {
    "python": "would run code of a client on the server",
    "score_model": "would ask another model for every answer",
    "label_model": "would ask another model for every answer",
}
"""Graders of the wire that are not done here, and why."""


def graded(told: dict[str, Any] | None, numbers: Mapping[str, Any], said: Any) -> dict[str, Any]:
    """The objective behind ``method.type: reinforcement``.

    Args:
        told: the grader, as the wire has it. numbers: hyperparameters that were given. said: ``luthier.objective``, which wins.

    Raises:
        SpecError: there is no grader, or one that is not done here.
    """
    if told is None:
        remedy = "Add method.reinforcement with a grader."
        raise SpecError("Learning from grades wants a grader.", where="method.reinforcement", remedy=remedy, code="bad_value")
    found = plain_grader(told)
    own = {"name": said} if isinstance(said, str) else dict(said or {})
    share = numbers.get("compute_multiplier")
    samples = {} if share is None else {"samples": min(MOST_SAMPLES, max(2, round(SAMPLES * share)))}
    return {"name": "grpo", "grader": found, **samples, **own}


def plain_grader(told: dict[str, Any], place: str = PLACE) -> dict[str, Any]:
    """The wire's grader as `luthier.evaluation.graders.grader` takes it: without the wire's names, several of them by name, and checked.

    Args:
        told: the grader, as the wire has it. place: of the grader in the request, for errors.

    Raises:
        SpecError: it is not done here, or cannot work.
    """
    plain = _plain(told, place)
    try:
        grader(plain, path=place)
    except LuthierError as error:
        raise SpecError(error.what, where=place, remedy=error.remedy, code=error.code) from error
    return plain


def _plain(told: dict[str, Any], place: str) -> dict[str, Any]:
    kind = told.get("type")
    if isinstance(kind, str) and kind in ELSEWHERE:
        what = f"A grader of type {kind} {ELSEWHERE[kind]}: that is not done here."
        raise SpecError(what, where=f"{place}.type", remedy=f"Take one of {', '.join(GRADERS.names())}.", code="bad_value")
    plain = {key: value for key, value in told.items() if key != "name"}
    several = plain.get("graders")
    if isinstance(several, dict) and isinstance(several.get("type"), str):  # the specification's schema has one there ...
        several = [several]
    if isinstance(several, list):  # ... its example a list, its guide names
        several = {str(one.get("name", "")) if isinstance(one, dict) else "": one for one in several}
    if kind == "multi" and isinstance(several, dict):
        plain["graders"] = {name: _plain(one, f"{place}.graders.{name}") if isinstance(one, dict) else one for name, one in several.items()}
    return plain
