"""Does the answer say the right label and no other? Letter case and a final full stop do not count."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field

from luthier.core.spec import Strict
from luthier.evaluation.graders._fields import ANSWER, EXPECTED, filled


class Options(Strict):
    """The labels."""

    labels: list[str] = Field(default_factory=list)
    """All of them: then the answer may say the label in a sentence, as long as it says one only. Empty: the answer is the label."""
    input: str = ANSWER
    """What is looked at."""
    reference: str = EXPECTED
    """Where the right label stands."""


def grade(options: Options, item: dict[str, Any], said: str) -> float:
    """1 or 0."""
    given, wanted = (_plain(filled(text, item, said)) for text in (options.input, options.reference))
    if given == wanted or not options.labels:
        return float(given == wanted)
    found = {label for label in map(_plain, options.labels) if re.search(rf"(?<!\w){re.escape(label)}(?!\w)", given)}
    inside = {label for label in found if any(label != other and label in other for other in found)}  # "card" in "card lost"
    return float(found - inside == {wanted})


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()
