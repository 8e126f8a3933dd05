"""Is the last number of the answer the right one? Thousands separators, currency and percent signs do not count."""

from __future__ import annotations

import math
import re
from typing import Any

from pydantic import Field

from luthier.core.spec import Strict
from luthier.evaluation.graders._fields import ANSWER, EXPECTED, filled

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|[-+]?\.\d+")


class Options(Strict):
    """What is compared, and how exactly."""

    tolerance: float = Field(1e-6, ge=0, le=1)
    """Largest difference, as a share of the right number."""
    input: str = ANSWER
    """What is looked at; its last number counts."""
    reference: str = EXPECTED
    """Where the right number stands; its last number counts."""


def grade(options: Options, item: dict[str, Any], said: str) -> float:
    """1 or 0; 0 where there is no number."""
    given, wanted = (last(filled(text, item, said)) for text in (options.input, options.reference))
    if given is None or wanted is None:
        return 0.0
    return float(math.isclose(given, wanted, rel_tol=options.tolerance, abs_tol=options.tolerance))


def last(text: str) -> float | None:
    """The last number of a text."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None
