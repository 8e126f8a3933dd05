"""Messages as the plain dictionaries a chat template reads, in the shape this very template wants.

Templates disagree about tool calls: arguments as an object (most) or as the JSON text itself; an empty content as ``""`` or as none; ids of
any kind or of exactly nine letters (Mistral). Nobody declares which, so it is found by trial, once per template.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import DataError
from luthier.core.example import MARK, Message
from luthier.data.template import Template, has_developer

PROBE_TOOLS = [
    {"type": "function", "function": {"name": "probe_tool", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}}
]


@dataclass(slots=True, frozen=True)
class Shape:
    """How one template wants its messages.

    Attributes:
        objects: tool arguments as objects (transformers' convention) rather than as JSON text.
        empty: content of an assistant turn that only calls tools: an empty string, or None.
        nine: tool-call ids shortened to nine letters and digits.
        developer: the template knows the ``developer`` role.
        parts: contents are lists of parts, texts and pictures; else a picture is this token among the words, or nothing.
        picture: that token.
    """

    objects: bool = True
    empty: str | None = ""
    nine: bool = False
    developer: bool = False
    parts: bool = False
    picture: str = ""

    def messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """The turns as the template reads them; keys without a value are left out, for templates ask ``'tool_calls' in message``."""
        shaped: list[dict[str, Any]] = []
        open_calls: list[str] = []
        for number, message in enumerate(messages):
            role = "system" if message.role == "developer" and not self.developer else message.role
            turn: dict[str, Any] = {"role": role, "content": self._content(message)}
            if message.thinking:
                turn |= {"reasoning_content": message.thinking, "thinking": message.thinking}
            if message.tool_calls:
                turn["content"] = self._content(message) if message.content else self.empty
                turn["tool_calls"] = [self._call(call, f"call{number}{place}") for place, call in enumerate(message.tool_calls)]
                open_calls = [call["id"] for call in turn["tool_calls"]]
            if message.role == "tool":
                turn["tool_call_id"] = self._id(message.tool_call_id) if message.tool_call_id else (open_calls.pop(0) if open_calls else "")
            if message.name:
                turn["name"] = message.name
            shaped.append(turn)
        return shaped

    def _content(self, message: Message) -> str | list[dict[str, str]]:
        if not self.parts:
            return message.content.replace(MARK, self.picture) if message.media else message.content
        texts = message.content.split(MARK) if message.media else [message.content]
        parts: list[dict[str, str]] = []
        for place, text in enumerate(texts):
            parts += [{"type": "image"}] if place else []
            parts += [{"type": "text", "text": text}] if text else []
        return parts

    def _call(self, call: dict[str, Any], missing: str) -> dict[str, Any]:
        function = dict(call.get("function") or {})
        function["arguments"] = self._arguments(function.get("arguments", {}))
        return {"id": self._id(call.get("id") or missing), "type": call.get("type") or "function", "function": function}

    def _arguments(self, given: Any) -> Any:
        if not self.objects:
            return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        if not isinstance(given, str):
            return given
        try:
            parsed = json.loads(given) if given.strip() else {}
        except ValueError:
            return given
        return parsed if isinstance(parsed, dict) else given

    def _id(self, given: str) -> str:
        if not self.nine or (len(given) == 9 and given.isalnum()):
            return given
        return hashlib.sha256(given.encode()).hexdigest()[:9]


def shape_of(template: Template) -> Shape:
    """The first shape in which `template` shows a tool call whole; the shortest text decides between ways to say "no content"."""
    developer, parts = has_developer(template.source), _wants_parts(template)
    found: list[tuple[int, Shape]] = []
    for objects in (True, False):
        for nine in (False, True):
            for empty in ("", None):
                shape = Shape(objects=objects, empty=empty, nine=nine, developer=developer, parts=parts)
                text = _try(template, shape)
                if text is not None:
                    found.append((len(text), shape))
            if found:
                return min(found, key=lambda pair: pair[0])[1]
    return Shape(developer=developer, parts=parts)


def _wants_parts(template: Template) -> bool:
    """Whether words are shown only as parts of a content, as templates of models that see do."""
    shown = []
    for parts in (False, True):
        try:
            text = template.render(Shape(parts=parts).messages([Message("user", "Question")]), generate=True)
        except DataError:
            text = ""
        shown.append("Question" in text and "type" not in text)
    return shown == [False, True]


def _try(template: Template, shape: Shape) -> str | None:
    call = {"id": "call_Zyxw1234567", "type": "function", "function": {"name": "probe_tool", "arguments": '{"probe_key": "probe_value"}'}}
    messages = [
        Message("user", "Question"),
        Message("assistant", tool_calls=[call]),
        Message("tool", "Found", tool_call_id=call["id"], name="probe_tool"),  # type: ignore[arg-type]
    ]
    try:
        text = template.render(shape.messages(messages), tools=PROBE_TOOLS, generate=True)
    except DataError:
        return None
    whole = "probe_tool" in text and '"probe_key"' in text and "probe_value" in text and "Found" in text
    return text if whole else None
