"""Is the answer JSON of a given shape? Half of the grade is that it is JSON at all, so that there is something to climb."""

from __future__ import annotations

import json
from typing import Any

from luthier.core.spec import Strict
from luthier.evaluation.graders._fields import ANSWER, filled
from luthier.evaluation.graders._schema import fits, known

_NOTHING = object()


class Options(Strict):
    """The shape."""

    json_schema: dict[str, Any]
    """A JSON schema: type, properties, required, additionalProperties, items, enum, const, anyOf, lengths and limits."""
    input: str = ANSWER
    """What is looked at; a fence of three backticks around it does not count."""


def prepare(options: Options) -> None:
    """Refuse a schema that asks for what is not checked."""
    known(options.json_schema)


def grade(options: Options, item: dict[str, Any], said: str) -> float:
    """0 where it is no JSON, 0.5 where it is of another shape, 1."""
    value = _read(filled(options.input, item, said))
    return 0.0 if value is _NOTHING else 1.0 if fits(value, options.json_schema) else 0.5


def _read(text: str) -> Any:
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOTHING
