"""A text and the class it belongs to: ``text,label`` columns of a table, or ``{"text": ..., "label": ...}``. The label is the answer."""

from __future__ import annotations

from typing import Any

from luthier.core.example import Example, Message, Source
from luthier.data.readers._findings import Findings
from luthier.data.table_shape import LABEL_NAMES, TEXT_NAMES

KNOWN = frozenset({*TEXT_NAMES, *LABEL_NAMES})
SHAPE = "text and label"


def _columns(row: dict[str, Any]) -> tuple[str, str]:
    by_name = {key.strip().lower(): key for key in row}
    text = next((by_name[name] for name in TEXT_NAMES if name in by_name), "")
    label = next((by_name[name] for name in LABEL_NAMES if name in by_name), "")
    return text, label


def fits(row: dict[str, Any]) -> float:
    """Rows with a text and a label beside it."""
    text, label = _columns(row)
    if not text or not label or not isinstance(row[label], str | int) or isinstance(row[label], bool):
        return 0.0
    if row.keys() & {"messages", "answer", "output", "completion", "response", "code"}:
        return 0.0
    return 0.93


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a chat: the text asks, the label answers."""
    text, label = _columns(row)
    asked = findings.text(row.get(text), text or "text")
    answer = findings.text(row.get(label), label or "label").strip()
    if findings.errors:
        return None
    return Example(source, "chat", [Message("user", asked), Message("assistant", answer)], label=answer)
