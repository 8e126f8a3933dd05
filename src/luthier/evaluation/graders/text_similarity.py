"""How near is the answer to a text? By edit distance, character n-grams, or common words in order."""

from __future__ import annotations

from typing import Any, Literal

from rapidfuzz import fuzz

from luthier.core.spec import Strict
from luthier.evaluation.graders._fields import ANSWER, EXPECTED, filled
from luthier.evaluation.labels import labels_of
from luthier.evaluation.metrics import metric


class Options(Strict):
    """What is compared, and how."""

    evaluation_metric: Literal["fuzzy_match", "chrf", "rouge_l"] = "fuzzy_match"
    """fuzzy_match: one minus the edit distance as a share, by insertions and deletions; chrf, rouge_l: the metrics of that name."""
    input: str = ANSWER
    """What is looked at."""
    reference: str = EXPECTED
    """What it is compared with."""


def grade(options: Options, item: dict[str, Any], said: str) -> float:
    """0 to 1."""
    given, wanted = (filled(text, item, said) for text in (options.input, options.reference))
    if options.evaluation_metric == "fuzzy_match":
        return fuzz.ratio(given, wanted) / 100
    return metric(options.evaluation_metric).score(wanted, given, labels=labels_of([]), stopped=True)
