"""Does a pattern fit the answer? Each look has a time limit, so that a pattern that would try for ever is a miss and not a standstill.

The one door to `regex`, whose matching can be stopped; the standard library's cannot.
"""

from __future__ import annotations

import re
from functools import lru_cache
from math import prod
from typing import Any, Literal

import regex

from luthier.core.errors import SpecError
from luthier.core.spec import Strict
from luthier.evaluation.graders._fields import ANSWER, filled

SECONDS = 0.1
"""For one look. A sound pattern takes microseconds."""

LONGEST_PATTERN, LONGEST_TEXT, MOST_REPEATS = 500, 100_000, 10_000
"""A pattern is compiled before it can be stopped, so what makes compiling long is refused: length, and repeats within repeats."""

_REPEATS = re.compile(r"\{(\d+)(?:,(\d*))?\}")


class Options(Strict):
    """What is looked for."""

    pattern: str
    """A regular expression."""
    mode: Literal["search", "fullmatch"] = "search"
    """Anywhere in the answer, or all of it."""
    input: str = ANSWER
    """What is looked at."""


def prepare(options: Options) -> None:
    """Refuse a pattern that does not compile, or would take long to."""
    repeats = prod(max(int(number) for number in found if number) or 1 for found in _REPEATS.findall(options.pattern))
    if len(options.pattern) > LONGEST_PATTERN or repeats > MOST_REPEATS:
        raise SpecError(
            f"The pattern is too large: {len(options.pattern)} characters, repeats of up to {repeats:,} in all.",
            remedy=f"At most {LONGEST_PATTERN} characters and {MOST_REPEATS:,} repeats.",
            code="bad_pattern",
        )
    _compiled(options.pattern)


def grade(options: Options, item: dict[str, Any], said: str) -> float:
    """1 or 0; 0 where the time was not enough to tell."""
    look = getattr(_compiled(options.pattern), options.mode)
    try:
        return float(look(filled(options.input, item, said)[:LONGEST_TEXT], timeout=SECONDS) is not None)
    except TimeoutError:
        return 0.0


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> Any:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise SpecError(f"The pattern does not compile: {error}.", remedy="Correct it.", code="bad_pattern") from error
