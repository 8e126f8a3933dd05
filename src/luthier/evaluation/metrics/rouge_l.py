"""ROUGE-L: F1 of the longest common subsequence of words (Lin 2004, "ROUGE", section 3)."""

from __future__ import annotations

import re

from rapidfuzz.distance import LCSseq

from luthier.evaluation.labels import Labels

title, unit, scale, higher_is_better = "ROUGE-L", "points of ROUGE-L", 100.0, True

_WORD = re.compile(r"\w+")


def score(expected: str, answer: str, *, labels: Labels, stopped: bool) -> float:
    """2PR/(P+R), where P and R are the common subsequence as a share of the given and the expected words; 0 to 1."""
    wanted, given = _WORD.findall(expected.lower()), _WORD.findall(answer.lower())
    if not wanted or not given:
        return float(not wanted and not given)
    common = LCSseq.similarity(wanted, given)
    return 2.0 * common / (len(wanted) + len(given))
