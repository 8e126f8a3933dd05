"""Pairs: ``{"prompt": "2 + 2 =", "completion": " 4"}``, and the same under other names (question/answer, input/output ...).

Both sides may be lists of messages; then the row is a chat.
"""

from __future__ import annotations

from typing import Any

from luthier.core.example import Example, Message, Source
from luthier.data.readers._findings import Findings
from luthier.data.readers._messages import messages

PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("instruction", "response"),
    ("input", "output"),
    ("text", "code"),
)
KNOWN = frozenset({"system", *(name for pair in PAIRS for name in pair)})
SHAPE = "prompt and completion (or question and answer, input and output)"


def fits(row: dict[str, Any]) -> float:
    """Rows with one of the pairs of names."""
    if row.keys() & {"chosen", "rejected", "messages", "conversations"} or ("instruction" in row and "output" in row):
        return 0.0
    if isinstance(row.get("label"), bool):
        return 0.0
    found = next((index for index, (a, b) in enumerate(PAIRS) if a in row and b in row), None)
    return 0.0 if found is None else 0.96 if found == 0 else 0.9 if found < 6 else 0.7


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a completion, or as a chat where its sides are messages or a system prompt comes with it."""
    prompt, completion = next(((a, b) for a, b in PAIRS if a in row and b in row), PAIRS[0])
    if type(row.get(prompt)) is list or type(row.get(completion)) is list:
        both = _side(row, prompt, "user", findings) + _side(row, completion, "assistant", findings)
        return None if findings.errors else Example(source, "chat", both)
    system = findings.text(row.get("system"), "system", optional=True)
    pair = [Message("user", findings.text(row.get(prompt), prompt)), Message("assistant", findings.text(row.get(completion), completion))]
    if findings.errors:
        return None
    return Example(source, "chat", [Message("system", system), *pair]) if system.strip() else Example(source, "completion", pair)


def _side(row: dict[str, Any], name: str, role: str, findings: Findings) -> list[Message]:
    value = row.get(name)
    return messages(value, name, findings) if type(value) is list else [Message(role, findings.text(value, name))]
