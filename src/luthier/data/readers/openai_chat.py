"""OpenAI's chat rows: ``{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello.", "weight": 1}]}``.

With ``tools`` and ``tool_calls``, or the older ``functions`` and ``function_call``. A ``label`` (text) beside the messages names the class
the answer stands for. A content may be a list of parts, texts and pictures (``image_url``); or the words say ``<image>``, and ``images``
beside the messages has the pictures in order.
"""

from __future__ import annotations

from typing import Any

from luthier.core.example import Example, Source
from luthier.data.readers._findings import Findings
from luthier.data.readers._messages import messages, tools, with_media

KNOWN = frozenset({"messages", "tools", "functions", "label", "parallel_tool_calls", "images", "videos", "audios"})
SHAPE = "messages with role and content"


def fits(row: dict[str, Any]) -> float:
    """Rows with a list of messages that have roles."""
    turns = row.get("messages")
    if type(turns) is not list or isinstance(row.get("label"), bool) or "chosen" in row:
        return 0.0
    return 0.98 if turns and type(turns[0]) is dict and "role" in turns[0] else 0.6


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a chat."""
    if isinstance(row.get("label"), bool):
        findings.add(
            "label",
            "kto_rows",
            "The row judges one answer as good or bad (KTO).",
            "Set data.format to judged, or delete the label.",
        )
    if "videos" in row:
        what = "The row comes with videos, which cannot be learned."
        findings.add("videos", "unsupported_media", what, "Use rows of text and pictures.")
    read = Example(source, "chat", messages(row.get("messages"), "messages", findings))
    if len(row) > 1:
        with_media(read.messages, row, findings)
        read.tools = tools(row.get("tools"), "tools", findings) or tools(row.get("functions"), "functions", findings)
        read.label = "" if isinstance(row.get("label"), bool) else findings.text(row.get("label"), "label", optional=True)
    return None if findings.errors else read
