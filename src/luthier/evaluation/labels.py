"""Are the answers labels? And how is the label read off an answer?

The rule, told to the user in `Labels.reason`. Answers are labels when few distinct short texts (at most 60 characters) repeat over at
least 8 rows: whole answers when there are at most 200 distinct ones and each occurs twice on average; else first lines, by the rule of
`data.first_line`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from luthier.data.first_line import LONGEST, are_labels, first_line

FEWEST_ROWS = 8


@dataclass(frozen=True)
class Labels:
    """How labels are read off answers.

    Attributes:
        where: ``whole`` answer, its ``first_line``, or ``none`` when answers are not labels.
        values: the labels the data was seen to use, normalised. texts: the same, each as it was first written.
        reason: the observation behind the decision, as a sentence.
    """

    where: Literal["whole", "first_line", "none"]
    values: tuple[str, ...]
    reason: str
    texts: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Whether answers are labels at all."""
        return self.where != "none"

    def read(self, answer: str) -> str:
        """The label of `answer`: its text or first line, without white space and a final full stop, letter case ignored."""
        return _normal(first_line(answer) if self.where == "first_line" else answer)


def detect(expected: list[str]) -> Labels:
    """Decide from the expected answers whether they are labels. See the rule at the top of this file."""
    whole = Counter(map(_normal, expected))
    if _repeats(whole, most=200, each=2):
        return Labels(
            "whole",
            tuple(sorted(whole)),
            f"the {len(expected)} expected answers are {len(whole)} distinct short texts that repeat",
            _texts(expected),
        )
    lines = Counter(_normal(first_line(e)) for e in expected)
    if len(expected) >= FEWEST_ROWS and are_labels(lines, rows=len(expected)) and any("\n" in e.strip() for e in expected):
        return Labels(
            "first_line",
            tuple(sorted(lines)),
            f"the first lines of the {len(expected)} expected answers are {len(lines)} distinct labels that repeat",
            _texts([first_line(e) for e in expected]),
        )
    return Labels("none", (), f"the {len(expected)} expected answers are free text ({len(whole)} distinct)")


def labels_of(texts: list[str]) -> Labels:
    """Labels that are known beforehand: those a head can say."""
    if not texts:
        return Labels("none", (), "a head says no labels here")
    return Labels("whole", tuple(sorted(map(_normal, texts))), f"a head says one of {len(texts)} labels", _texts(texts))


def _repeats(counts: Counter[str], *, most: int, each: int) -> bool:
    rows = counts.total()
    few = 2 <= len(counts) <= most and rows >= max(FEWEST_ROWS, each * len(counts))
    return few and all(0 < len(text) <= LONGEST for text in counts)


def _texts(labels: list[str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for text in labels:
        first.setdefault(_normal(text), text.strip())
    return tuple(first[value] for value in sorted(first))


def _normal(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()
