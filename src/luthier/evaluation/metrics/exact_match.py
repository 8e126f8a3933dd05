"""Exact match: is the whole answer the expected one, apart from white space at its ends and runs of it inside?"""

from __future__ import annotations

from luthier.evaluation.labels import Labels

title, unit, scale, higher_is_better = "exact match", "points of exact match", 100.0, True


def score(expected: str, answer: str, *, labels: Labels, stopped: bool) -> float:
    """1.0 when the words are the same, else 0.0."""
    return float(expected.split() == answer.split())
