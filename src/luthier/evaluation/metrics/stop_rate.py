"""Stop rate: did the model end the answer by itself, or did the limit of tokens end it?"""

from __future__ import annotations

from luthier.evaluation.labels import Labels

title, unit, scale, higher_is_better = "stop rate", "points of stop rate", 100.0, True


def score(expected: str, answer: str, *, labels: Labels, stopped: bool) -> float:
    """1.0 when the model stopped by itself."""
    return float(stopped)
