"""When the first line of an answer is a label (``Label: refund``, and then a reply in prose): few short ones begin all answers.

At most 30 different ones, each four times on average: a first line repeats by chance ("Dear customer,") more easily than a whole answer.
"""

from __future__ import annotations

from collections.abc import Collection

MOST, EACH, LONGEST = 30, 4, 60
"""Different lines, rows for each of them on average, characters of a line (a longer repeated one is a stock phrase)."""


def first_line(text: str) -> str:
    """The first line of a text, without white space around it."""
    return text.strip().split("\n", 1)[0].strip()


def are_labels(lines: Collection[str], *, rows: int) -> bool:
    """Whether the different first `lines` of the answers of `rows` rows are labels."""
    return 2 <= len(lines) <= MOST and rows >= EACH * len(lines) and all(0 < len(line) <= LONGEST for line in lines)
