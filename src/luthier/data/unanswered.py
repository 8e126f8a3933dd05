"""A row that waits for its answer, given by hand and not in a file: what a head is asked.

    "Where is my parcel?"
    {"image": "17.png"}    {"audio": "17.wav"}    {"text": "It rains.", "pair": "It is wet."}    {"tokens": ["Anna", "flew"]}
    {"messages": [{"role": "user", "content": "<image>Which bird?"}], "images": ["17.png"]}

Readers of files read it (``data/readers``), with something in the place of the answer. Paths begin at the present folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from luthier.core.errors import DataError, did_you_mean
from luthier.core.example import Example, Message, Source
from luthier.data.readers._findings import Findings
from luthier.data.recognise import READERS

Unanswered = str | Mapping[str, Any]
"""A text, or the fields of a row."""

FILE = "predict"
"""Stands where errors name a file."""


def unanswered(row: Unanswered, number: int, *, answered: bool = False) -> Example:
    """The row as an Example. Its last answer is its own, or stands only for the one that is asked for.

    Args:
        number: of the row among those asked, from 1. answered: nothing is put in the place of an answer.

    Raises:
        DataError: no reader knows such a row, or it does not pass; `where` names row and field.
    """
    source = Source(FILE, number)
    if isinstance(row, str):
        return Example(source, messages=[Message("user", row)])
    name, fields = _taken_for(dict(row), source, answered)
    reader, findings = READERS.load(name), Findings(FILE)
    findings.begin(number)
    for key in fields.keys() - reader.KNOWN:
        findings.add(key, "unknown_field", f"There is no field {key!r}.", did_you_mean(key, reader.KNOWN))
    example: Example | None = reader.example(fields, source, findings)
    wrong = next((problem for problem in findings.problems if problem.severity == "error"), None)
    if wrong is not None or example is None:
        what, remedy, code = (wrong.message, wrong.remedy, wrong.code) if wrong else ("It says nothing.", "Correct it.", "unknown_format")
        raise DataError(what, where=f"{source} field {wrong.field}" if wrong else str(source), remedy=remedy, code=code)
    return example


def _taken_for(row: dict[str, Any], source: Source, answered: bool) -> tuple[str, dict[str, Any]]:
    """The reader that fits best, and the row with what it misses."""
    words: list[Any] = next((row[name] for name in ("tokens", "words") if isinstance(row.get(name), list)), [])
    missing: dict[str, dict[str, Any]] = {
        "openai_chat": {},
        "tagged": {"tags": ["-"] * len(words)},
        "labelled": {"label": "-"},
        "prompt_completion": {"completion": "-"},
    }
    known = {name: ({} if answered else part) | row for name, part in missing.items()}
    name = max(known, key=lambda name: float(READERS.load(name).fits(known[name])))
    if not READERS.load(name).fits(known[name]):
        raise DataError(
            f"The row has fields that say nothing together: {', '.join(map(str, row)) or 'none'}.",
            where=str(source),
            remedy="Give a text, or a row: "
            + ("messages, or prompt and completion." if answered else "text, image, audio, tokens, prompt or messages."),
            code="unknown_format",
        )
    return name, known[name]
