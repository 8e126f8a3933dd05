"""Tool calls: how a template writes them, and how they are found again in what a model says.

Nobody declares the form. A template's own is found by having it render a call with known words in it:

    <tool_call>\\n{"name": "NAME", "arguments": ARGUMENTS}\\n</tool_call>         Qwen, Hermes
    {"name": "NAME", "parameters": ARGUMENTS}                                    Llama 3
    [TOOL_CALLS][{"name": "NAME", "arguments": ARGUMENTS, "id": "..."}]          Mistral
    [TOOL_CALLS]NAME[ARGS]ARGUMENTS                                              newer Mistral

The four are read whatever the template, because models answer in the form they were trained on. What is no call of an offered tool stays
text, word for word.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import DataError
from luthier.core.example import Message
from luthier.data.render import Renderer
from luthier.data.shape import PROBE_TOOLS
from luthier.inference.serving.ask import ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MARKS = (OPEN, "[TOOL_CALLS]", "<|python_tag|>")
"""What a call begins with, if it is not plain JSON at the beginning of the answer."""

KEYS = frozenset({"name", "function", "type", "id", "arguments", "parameters"})
"""What a call's object may begin with: anything else is an answer in JSON, and is not held back."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a template writes a call: ``opening NAME middle ARGUMENTS closing``."""

    opening: str
    middle: str
    closing: str


def form_of(renderer: Renderer) -> Form | None:
    """The template's own form; None where it writes no call whose arguments are one JSON object."""
    name = "probe_tool"
    call = {"id": "call_Zyxw1", "type": "function", "function": {"name": name, "arguments": '{"probe_key": "probe_value"}'}}
    messages = [Message("user", "Question"), Message("assistant", tool_calls=[call])]
    try:
        text = renderer.turn(messages, 1, tools=[dict(tool) for tool in PROBE_TOOLS]).answer
    except DataError:
        return None
    found = re.search(r'\{\s*"probe_key":\s*"probe_value"\s*\}', text)
    at = text.find(name)
    if found is None or not 0 <= at < found.start():
        return None
    ends = [end for token in renderer.end_tokens if (end := renderer.tokenizer.text_of(token)) and end in text[found.end() :]]
    closing = min((text[found.end() :].partition(end)[0] for end in ends), key=len, default=text[found.end() :])
    closing = re.sub(r',\s*"id":\s*"[^"]*"', "", closing)
    return Form(text[:at], text[at + len(name) : found.start()], closing)


@dataclass
class Calls:
    """Reads one answer.

    Attributes:
        names: the offered tools. several: more than one call is welcome.
        made: calls found so far.
    """

    names: frozenset[str]
    several: bool = True
    made: int = 0
    _held: str = ""
    _begun: bool = False  # something that is not white space was said
    _inside: bool = False  # `_held` begins with what may be a call
    _plain: bool = False  # no call comes any more without a mark
    _after: bool = False  # a call came last: white space is held, because the line between two calls is not said

    @property
    def enough(self) -> bool:
        """A call is complete, and no other is wanted."""
        return self.made > 0 and not self.several

    def take(self, text: str) -> tuple[str, list[ToolCall]]:
        """More of the answer: the text that surely is no call, and calls that are complete."""
        self._held += text
        said, calls = "", list[ToolCall]()
        while True:
            if not self._inside:
                said += self._until_mark()
            if not self._inside:
                return said, calls
            done = self._complete()
            if done is None:
                return said, calls
            body, self._held, self._inside = done[0], done[1], False
            found = self._calls(body)
            calls += found
            self._after = bool(found)
            said += "" if found else body

    def end(self) -> tuple[str, list[ToolCall]]:
        """Nothing more comes."""
        rest, self._held = self._held, ""
        calls = self._calls(rest) if self._inside else []
        return ("" if calls or (self._after and not rest.strip()) else rest), calls

    def _until_mark(self) -> str:
        """What comes before the next mark; what may become one stays held."""
        if not self._begun and not self._plain:
            bare = self._held.lstrip()
            if not bare:
                return ""
            if bare[0] in "{[" and not bare.startswith("[TOOL_CALLS]"[: len(bare)]):
                self._inside = True
                return ""
        at = min((place for mark in MARKS if (place := self._held.find(mark)) >= 0), default=-1)
        if at < 0:
            doubt = next((n for n in range(max(map(len, MARKS)) - 1, 0, -1) if any(m.startswith(self._held[-n:]) for m in MARKS)), 0)
            at = len(self._held) - min(doubt, len(self._held))
        else:
            self._inside = True
        said, self._held = self._held[:at], self._held[at:]
        if self._after and not said.strip():
            said, self._held = "", (self._held if self._inside else said + self._held)
        self._after = self._after and not said
        self._begun = self._begun or bool(said.strip())
        return said

    def _complete(self) -> tuple[str, str] | None:
        """The call that `_held` begins with and what follows it, where it can be told already."""
        if self._held.startswith(OPEN):
            body, closed, rest = self._held.partition(CLOSE)
            return (body + closed, rest) if closed else None
        if not self._held.startswith(MARKS) and not self._begun and _surely_no_call(self._held):
            self._plain = self._begun = True
            return self._held, ""
        return None

    def _calls(self, body: str) -> list[ToolCall]:
        found = []
        for name, arguments in _parsed(body):
            if name not in self.names:
                return []
            found.append((name, arguments))
        kept = found if self.several else found[: 1 - min(self.made, 1)]
        calls = [ToolCall(self.made + i, f"call_{secrets.token_hex(12)}", name, text) for i, (name, text) in enumerate(kept)]
        self.made += len(calls)
        return calls


def _surely_no_call(text: str) -> bool:
    """JSON that begins with a key no call has, or with something that is no object."""
    found = re.match(r'\s*(\[\s*)?(?:\{\s*"([^"\\]*)"|\{\s*[^"\s]|\[\s*[^\s{])', text)
    return found is not None and (found[2] is None or found[2] not in KEYS)


def _parsed(body: str) -> Iterator[tuple[str, str]]:
    """Name and JSON arguments of each call in `body`; nothing at all where some of it is something else."""
    for mark in (*MARKS, CLOSE):
        body = body.replace(mark, " ")
    named = re.fullmatch(r"\s*([\w.-]+)\s*(?:\[ARGS\])?\s*(\{.*\})\s*", body, re.DOTALL)
    if named:
        arguments = _json(named[2])
        return iter([(named[1], _text(arguments))] if isinstance(arguments, dict) else [])
    values = _values(body)
    calls = [_call(value) for value in values or []]
    return iter([call for call in calls if call] if calls and all(calls) else [])


def _values(body: str) -> list[Any] | None:
    """JSON values one after the other, lists opened; between them space, commas or semicolons."""
    found: list[Any] = []
    decoder, at = json.JSONDecoder(), 0
    while True:
        at += len(body[at:]) - len(body[at:].lstrip(" \t\r\n,;"))
        if at == len(body):
            return found
        try:
            value, at = decoder.raw_decode(body, at)
        except (ValueError, RecursionError):
            return None
        found += value if isinstance(value, list) else [value]


def _call(value: Any) -> tuple[str, str] | None:
    inner = value.get("function") if isinstance(value, dict) and isinstance(value.get("function"), dict) else value
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        return None
    arguments = inner.get("arguments", inner.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _json(arguments)
    return (inner["name"], _text(arguments)) if isinstance(arguments, dict) else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text(arguments: Any) -> str:
    return json.dumps(arguments, ensure_ascii=False)
