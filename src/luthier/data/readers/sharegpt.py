"""ShareGPT's rows: ``{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]}``.

With ``system`` beside or among the turns, and tools: ``tools`` as JSON text, turns ``function_call`` and ``observation``.
"""

from __future__ import annotations

from typing import Any

from luthier.core.example import Example, Message, Source
from luthier.data.json_rows import loads
from luthier.data.readers._findings import Findings
from luthier.data.readers._messages import tools, with_media
from luthier.data.readers._turns import turns

KNOWN = frozenset({"conversations", "conversation", "system", "tools", "images", "audios"})
SHAPE = "conversations with from and value"


def fits(row: dict[str, Any]) -> float:
    """Rows with a list of turns."""
    value = row.get("conversations", row.get("conversation"))
    if type(value) is not list or "chosen" in row or "rejected" in row:
        return 0.0
    return 0.97 if value and type(value[0]) is dict and value[0].keys() & {"from", "role"} else 0.5


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a chat."""
    field = "conversations" if "conversations" in row else "conversation"
    read = turns(row.get(field), field, findings)
    with_media(read, row, findings)
    system = findings.text(row.get("system"), "system", optional=True)
    if system:
        read.insert(0, Message("system", system))
    return None if findings.errors else _with_tools(Example(source, "chat", read), row.get("tools"), findings)


def _with_tools(read: Example, value: Any, findings: Findings) -> Example | None:
    if isinstance(value, str) and value.strip():
        content = loads(value)
        if content is None:
            findings.add("tools", "bad_tools", "The tools are not JSON.", "Write a JSON list of functions.")
        value = content
    read.tools = tools(value or None, "tools", findings)
    return None if findings.errors else read
