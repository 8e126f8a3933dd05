"""Messages in OpenAI's shape, which several formats contain."""

from __future__ import annotations

from typing import Any

from luthier.core.errors import did_you_mean
from luthier.core.example import MARK, Medium, Message
from luthier.data.media import picture, sound
from luthier.data.readers._findings import Findings

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
PICTURES = frozenset({"image_url", "input_image", "image"})
SOUNDS = frozenset({"input_audio", "audio_url", "audio"})
IMAGE = "<image>"
AUDIO = "<audio>"
_PLAIN = frozenset({"role", "content"})
_KNOWN = frozenset(
    {
        "role",
        "content",
        "weight",
        "name",
        "tool_calls",
        "tool_call_id",
        "function_call",
        "refusal",
        "thinking",
        "reasoning_content",
        "reasoning",
    }
)
_IGNORED = frozenset({"annotations", "audio", "id"})


def messages(value: Any, field: str, findings: Findings) -> list[Message]:
    """A list of messages. Each entry that is none becomes a finding.

    Args:
        field: dotted place of `value` in the row.
    """
    if type(value) is not list:
        findings.wrong_type(field, "a list of messages", value)
        return []
    read: list[Message] = []
    for index, entry in enumerate(value):
        if type(entry) is not dict:
            findings.wrong_type(f"{field}.{index}", "a message", entry)
        elif entry.keys() == _PLAIN and type(entry["content"]) is str and entry["role"] in ROLES:
            read.append(Message(entry["role"], entry["content"]))  # nine in ten messages: nothing more to look at
        else:
            read.append(_message(entry, f"{field}.{index}", findings, read))
    return read


def _message(entry: dict[str, Any], field: str, findings: Findings, before: list[Message]) -> Message:
    _unknown(entry, field, findings)
    role = _role(entry.get("role"), field, findings)
    words, media = _content(entry.get("content"), f"{field}.content", findings)
    message = Message(role, words, media=media)
    if not message.content and entry.get("refusal"):
        message.content = findings.text(entry["refusal"], f"{field}.refusal")
    message.weight = _weight(entry.get("weight", 1), f"{field}.weight", findings)
    message.name = findings.text(entry.get("name"), f"{field}.name", optional=True)
    thinking = next((key for key in ("thinking", "reasoning_content", "reasoning") if entry.get(key)), "")
    message.thinking = findings.text(entry[thinking], f"{field}.{thinking}") if thinking else ""
    message.tool_call_id = findings.text(entry.get("tool_call_id"), f"{field}.tool_call_id", optional=True)
    message.tool_calls = _tool_calls(entry, field, findings, before)
    if entry.get("role") == "function":  # the old name of a tool turn; it answers the call before it
        message.tool_call_id = message.tool_call_id or next((turn.tool_calls[-1]["id"] for turn in reversed(before) if turn.tool_calls), "")
    return message


def _unknown(entry: dict[str, Any], field: str, findings: Findings) -> None:
    for key in entry.keys() - _KNOWN - _IGNORED:
        findings.add(f"{field}.{key}", "unknown_field", f"A message has no field {key!r}.", did_you_mean(key, _KNOWN))
    for key in entry.keys() & _IGNORED:
        if entry[key]:
            findings.add(
                f"{field}.{key}", "unknown_field", f"The field {key!r} of a message is not learned.", "Leave it, or delete it.", "warning"
            )


def _role(value: Any, field: str, findings: Findings) -> str:
    if value == "function":
        return "tool"
    if value not in ROLES if isinstance(value, str) else True:
        remedy = did_you_mean(str(value), ROLES) if value is not None else "Give the message a role."
        findings.add(
            f"{field}.role", "wrong_role", f"There is no role {value!r}." if value is not None else "The message has no role.", remedy
        )
        return ""
    return str(value)


def _content(value: Any, field: str, findings: Findings) -> tuple[str, tuple[Medium, ...]]:
    """Text, null, or a list of parts that are texts and pictures; where a picture is, the words have a mark."""
    if type(value) is not list:
        return findings.text(value, field, optional=True), ()
    words, media = list[str](), list[Medium]()
    for index, part in enumerate(value):
        if type(part) is dict and type(part.get("text")) is str and part.get("type", "text") in ("text", "input_text", "output_text"):
            words.append(part["text"])
        elif type(part) is dict and part.get("type") in PICTURES:
            words.append(MARK)
            media += _picture(part, f"{field}.{index}", findings)
        elif type(part) is dict and part.get("type") in SOUNDS:
            words.append(MARK)
            place = next((key for key in ("input_audio", "audio_url", "audio", "url", "path") if part.get(key)), "input_audio")
            heard = sound(part.get(place), f"{field}.{index}.{place}", findings.file, findings)
            media += [] if heard is None else [heard]
        elif type(part) is dict and isinstance(part.get("type"), str):
            what = f"A part of type {part['type']!r} cannot be learned."
            findings.add(f"{field}.{index}", "unsupported_media", what, "Use rows of text, or of text and pictures.")
        else:
            findings.wrong_type(f"{field}.{index}", "a part with its text", part)
    return "".join(words), tuple(media)


def _picture(part: dict[str, Any], field: str, findings: Findings) -> list[Medium]:
    place = next((key for key in ("image_url", "image", "url", "path") if part.get(key)), "image_url")
    found = picture(part.get(place), f"{field}.{place}", findings.file, findings)
    return [] if found is None else [found]


def with_media(read: list[Message], row: dict[str, Any], findings: Findings) -> None:
    """Put a row's ``images`` or ``audios`` into its messages, where their words say ``<image>`` or ``<audio>`` (LLaMA-Factory's shape)."""
    _with(read, row.get("images"), "images", IMAGE, picture, findings)
    _with(read, row.get("audios"), "audios", AUDIO, sound, findings)


def _with(read: list[Message], values: Any, field: str, word: str, look: Any, findings: Findings) -> None:
    if not values:
        return
    if type(values) is not list:
        findings.wrong_type(field, f"a list of {field}", values)
        return
    found = [look(value, f"{field}.{place}", findings.file, findings) for place, value in enumerate(values)]
    wanted = sum(message.content.count(word) for message in read)
    if wanted != len(values):
        what = f"The row comes with {len(values)} {field}, but its words say {word} {wanted} times."
        findings.add(field, "picture_count", what, f"Write {word} where each belongs.")
        return
    for message in read:
        count = message.content.count(word)
        if count:
            message.media += tuple(medium for medium in found[:count] if medium is not None)
            message.content, found = message.content.replace(word, MARK), found[count:]


def _weight(value: Any, field: str, findings: Findings) -> float:
    if isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    findings.add(field, "bad_weight", f"The weight is {value!r}.", "Use 0 (show it) or 1 (learn it), or a number between.")
    return 1.0


def _tool_calls(entry: dict[str, Any], field: str, findings: Findings, before: list[Message]) -> list[dict[str, Any]]:
    calls = entry.get("tool_calls") or []
    if type(calls) is not list:
        findings.wrong_type(f"{field}.tool_calls", "a list of calls", calls)
        return []
    if type(entry.get("function_call")) is dict:
        number = 1 + sum(len(turn.tool_calls) for turn in before)
        calls = [*calls, {"id": f"call_{number}", "type": "function", "function": entry["function_call"]}]
    good = []
    for index, call in enumerate(calls):
        function = call.get("function") if type(call) is dict else None
        if type(function) is dict and type(function.get("name")) is str:
            good.append({"id": str(call.get("id") or ""), "type": "function", "function": {"arguments": {}, **function}})
        else:
            findings.wrong_type(f"{field}.tool_calls.{index}.function", "a function with its name", function)
    return good


def tools(value: Any, field: str, findings: Findings) -> list[dict[str, Any]]:
    """The tools of a row in OpenAI's shape; bare functions (the old ``functions``, and ShareGPT's) are wrapped."""
    if not value:
        return []
    if type(value) is not list:
        findings.wrong_type(field, "a list of tools", value)
        return []
    good = []
    for index, tool in enumerate(value):
        function = tool.get("function", tool) if type(tool) is dict else None
        if type(function) is dict and type(function.get("name")) is str:
            good.append({"type": "function", "function": function})
        else:
            findings.wrong_type(f"{field}.{index}", "a tool with its function's name", tool)
    return good
