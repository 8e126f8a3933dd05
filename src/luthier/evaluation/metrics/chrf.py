"""chrF: F-score of shared character n-grams, n = 1 to 6, recall counted twice (Popovic 2015, doi:10.18653/v1/W15-3049)."""

from __future__ import annotations

from sacrebleu.metrics.chrf import CHRF

from luthier.evaluation.labels import Labels

title, unit, scale, higher_is_better = "chrF", "points of chrF", 100.0, True

_CHRF = CHRF()  # sacrebleu's defaults: char order 6, word order 0, beta 2; scores 0 to 100


def score(expected: str, answer: str, *, labels: Labels, stopped: bool) -> float:
    """Sentence-level chrF, 0 to 1. Two empty texts agree."""
    if not expected.strip() and not answer.strip():
        return 1.0
    return float(_CHRF.sentence_score(answer, [expected]).score) / 100.0
