"""A question without an answer, and fields that graders look at: ``{"messages": [{"role": "user", ...}], "reference_answer": "42"}``.

The first field of a known name is the answer that is expected; where there is none, all other fields are, as JSON.
"""

from __future__ import annotations

from typing import Any

from luthier.core.example import Example, Message, Source
from luthier.data.json_rows import dumps
from luthier.data.readers._findings import Findings
from luthier.data.readers._messages import messages, tools

EXPECTED = ("reference_answer", "reference", "answer", "expected", "target", "label", "solution")
KNOWN = frozenset({"messages", "tools", *EXPECTED})
SHAPE = "messages that end with a question, and what is expected"


def fits(row: dict[str, Any]) -> float:
    """Rows whose messages end with a user's turn, with something beside them."""
    turns = row.get("messages")
    if type(turns) is not list or not turns or not row.keys() - {"messages", "tools"}:
        return 0.0
    last = turns[-1]
    return 0.985 if type(last) is dict and last.get("role") == "user" else 0.0


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a chat with the answer that is expected."""
    asked = messages(row.get("messages"), "messages", findings)
    offered = tools(row.get("tools"), "tools", findings)
    if findings.errors:
        return None
    name = next((name for name in EXPECTED if row.get(name) not in (None, "")), "")
    value = row[name] if name else {key: value for key, value in row.items() if key not in ("messages", "tools")}
    said = value if isinstance(value, str) else dumps(value).decode()
    return Example(source, "chat", [*asked, Message("assistant", said)], tools=offered)
