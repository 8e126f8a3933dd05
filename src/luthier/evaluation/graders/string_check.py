"""Is the answer this text? ``eq``, ``ne``, ``like`` (contains) or ``ilike`` (contains, letter case ignored), as on the wire."""

from __future__ import annotations

from typing import Any, Literal

from luthier.core.spec import Strict
from luthier.evaluation.graders._fields import ANSWER, EXPECTED, filled


class Options(Strict):
    """What is compared."""

    operation: Literal["eq", "ne", "like", "ilike"] = "eq"
    """Equal, not equal, contains, or contains whatever the letter case."""
    input: str = ANSWER
    """What is looked at."""
    reference: str = EXPECTED
    """What it is compared with."""


def grade(options: Options, item: dict[str, Any], said: str) -> float:
    """1 or 0. White space at the ends does not count."""
    left, right = (filled(text, item, said).strip() for text in (options.input, options.reference))
    if options.operation in ("like", "ilike"):
        fold = str.casefold if options.operation == "ilike" else str
        return float(bool(right) and fold(right) in fold(left))
    return float((left == right) == (options.operation == "eq"))
