"""Text without turns, all of it learned: documents of a ``.txt``, or ``{"text": ...}``."""

from __future__ import annotations

from typing import Any

from luthier.core.example import Example, Source
from luthier.data.readers._findings import Findings

KNOWN = frozenset({"text"})
SHAPE = "text alone"


def fits(row: dict[str, Any]) -> float:
    """Rows with a text and nothing that answers it."""
    return 0.6 if isinstance(row.get("text"), str) and not row.keys() & {"messages", "chosen", "conversations"} else 0.0


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a text."""
    text = findings.text(row.get("text"), "text")
    return None if findings.errors else Example(source, "text", text=text)
