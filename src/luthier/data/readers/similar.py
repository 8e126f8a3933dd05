"""Texts that belong together: ``{"anchor": ..., "positive": ...}``, perhaps with a ``negative`` that does not; ``query`` asks as well.

As a chat, the first asks and the second answers; with a third the row is a pair of answers.
"""

from __future__ import annotations

from typing import Any

from luthier.core.example import Example, Message, Source
from luthier.data.readers._findings import Findings

FIRST = ("anchor", "query", "question")
SECOND = ("positive", "pos")
THIRD = ("negative", "neg")
KNOWN = frozenset({*FIRST, *SECOND, *THIRD})
SHAPE = "anchor and positive"


def _name(row: dict[str, Any], names: tuple[str, ...]) -> str:
    return next((name for name in names if name in row), "")


def fits(row: dict[str, Any]) -> float:
    """Rows with a text and one that belongs to it."""
    return 0.96 if _name(row, FIRST) and _name(row, SECOND) else 0.0


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a question and its answer, or two of which one is wrong."""
    names = [_name(row, several) or several[0] for several in (FIRST, SECOND, THIRD)]
    asked, answer = (findings.text(row.get(name), name) for name in names[:2])
    wrong = findings.text(row.get(names[2]), names[2], optional=True)
    if findings.errors:
        return None
    prompt, good = Message("user", asked), Message("assistant", answer)
    if not wrong:
        return Example(source, "chat", [prompt, good])
    return Example(source, "preference", [prompt], chosen=[good], rejected=[Message("assistant", wrong)])
