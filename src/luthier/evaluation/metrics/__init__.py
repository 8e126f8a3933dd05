"""Metrics: the file `chrf.py` *is* `metric: chrf`.

A metric compares one expected answer with one given answer. Each module has:

    title: str                  how the number is called in a sentence, e.g. "label accuracy"
    unit: str                   what a difference is counted in, e.g. "points of label accuracy"
    scale: float                factor from a score (0 to 1) to that unit, e.g. 100
    higher_is_better: bool
    def score(expected: str, answer: str, *, labels: Labels, stopped: bool) -> float      one item, 0 to 1

and may have `extras(expected, answers, *, labels) -> dict`, a table over all items (a confusion table). `labels` says whether answers are
labels and how one is read off (``evaluation/labels.py``); `stopped` whether the model ended the answer by itself. The mean over items is
what is reported, so that the paired bootstrap resamples the very numbers that were averaged.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from luthier.core.registry import Folder
from luthier.evaluation.labels import Labels

FOLDER = Folder("luthier.evaluation.metrics", "metric")


class Metric(Protocol):
    """What a module of this folder offers."""

    title: str
    unit: str
    scale: float
    higher_is_better: bool

    def score(self, expected: str, answer: str, *, labels: Labels, stopped: bool) -> float:
        """Score of one answer, 0 to 1."""


def metric(name: str) -> Metric:
    """The metric called `name`.

    Raises:
        SpecError: there is none; the nearest is suggested.
    """
    return cast(Metric, FOLDER.load(name))


def extras(name: str, expected: list[str], answers: list[str], *, labels: Labels) -> dict[str, Any]:
    """The metric's table over all items; empty when it has none."""
    table = getattr(FOLDER.load(name), "extras", None)
    return dict(table(expected, answers, labels=labels)) if table else {}
