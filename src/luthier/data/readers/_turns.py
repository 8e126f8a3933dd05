"""Turns in ShareGPT's shape (``from`` and ``value``), which several formats contain."""

from __future__ import annotations

from typing import Any

from luthier.core.errors import did_you_mean
from luthier.core.example import Message
from luthier.data.json_rows import loads
from luthier.data.readers._findings import Findings
from luthier.data.readers._messages import messages

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
_CALLS = ("function_call", "tool_call")
_KNOWN = {"from", "value", "weight"}


def turns(value: Any, field: str, findings: Findings) -> list[Message]:
    """A list of turns as messages. Turns that say ``role`` and ``content`` are read as OpenAI's."""
    if type(value) is dict:
        value = [value]
    if type(value) is list and value and all(type(turn) is dict and "role" in turn for turn in value):
        return messages(value, field, findings)
    if type(value) is not list:
        findings.wrong_type(field, "a list of turns", value)
        return []
    read: list[Message] = []
    for index, turn in enumerate(value):
        if type(turn) is dict:
            read.append(_turn(turn, f"{field}.{index}", findings, read))
        else:
            findings.wrong_type(f"{field}.{index}", "a turn", turn)
    return read


def _turn(turn: dict[str, Any], field: str, findings: Findings, before: list[Message]) -> Message:
    speaker = turn.get("from")
    role = ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        findings.add(f"{field}.from", "wrong_role", f"There is no speaker {speaker!r}.", did_you_mean(str(speaker), ROLES))
    for key in turn.keys() - _KNOWN:
        findings.add(f"{field}.{key}", "unknown_field", f"The field {key!r} of a turn is not used.", "Leave it, or delete it.", "warning")
    value = findings.text(turn.get("value"), f"{field}.value")
    if speaker in _CALLS:
        return Message("assistant", tool_calls=_calls(value, f"{field}.value", findings, before))
    message = Message(role or "", value)
    if role == "tool":
        message.tool_call_id = next((turn.tool_calls[-1]["id"] for turn in reversed(before) if turn.tool_calls), "")
    return message


def _calls(value: str, field: str, findings: Findings, before: list[Message]) -> list[dict[str, Any]]:
    """``{"name": ..., "arguments": {...}}`` or a list of them, as OpenAI calls with ids ``call_1``, ``call_2`` ..."""
    content = loads(value)
    entries = content if type(content) is list else [content]
    number = 1 + sum(len(turn.tool_calls) for turn in before)
    calls: list[dict[str, Any]] = []
    for entry in entries:
        if type(entry) is not dict or type(entry.get("name")) is not str:
            findings.add(
                field, "bad_tool_call", "The call is not JSON with a name and arguments.", 'Write {"name": ..., "arguments": {...}}.'
            )
            return []
        function = {"name": entry["name"], "arguments": entry.get("arguments", {})}
        calls.append({"id": f"call_{number + len(calls)}", "type": "function", "function": function})
    return calls
