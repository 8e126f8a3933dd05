"""Graders: the file `number.py` *is* ``type: number``. Each gives an answer 0 to 1; none runs code of a user.

A module has ``Options`` (a `Strict` model) and ``grade(options, item, said) -> float``, and may refuse options in ``prepare(options)``; or
``ready(options) -> Grade``, where something is made once for all answers. What is compared is named as on the wire:
``{{ item.answer }}`` is a field of the row, ``{{ sample.output_text }}`` the answer that was written. `item` always has ``answer``, the
row's own last answer, where it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, cast

from luthier.core.errors import SpecError
from luthier.core.registry import Folder
from luthier.core.spec import Strict, checked

GRADERS = Folder("luthier.evaluation.graders", "grader")

Grade = Callable[[dict[str, Any], str], float]
"""From a row's fields and an answer to 0 .. 1."""


def grader(told: dict[str, Any], *, path: str = "objective.grader") -> Grade:
    """The grader that `told` describes: ``{"type": "number", "tolerance": 0.01}``; its name on the wire is not looked at.

    Raises:
        SpecError: no such grader, an unknown setting, or one that cannot work (a pattern that does not compile).
    """
    options = {key: value for key, value in told.items() if key not in ("type", "name")}
    if "type" not in told:
        raise SpecError(f"{path} has no type.", remedy=f"Known: {', '.join(GRADERS.names())}.", code="bad_value")
    module = GRADERS.load(str(told["type"]))
    settings = checked(module.Options, options, path=path)
    graded = _ready(module, settings)
    return lambda item, said: min(1.0, max(0.0, float(graded(item, said))))


def _ready(module: ModuleType, settings: Strict) -> Grade:
    if hasattr(module, "ready"):
        return cast(Grade, module.ready(settings))
    if hasattr(module, "prepare"):
        module.prepare(settings)
    return partial(module.grade, settings)
