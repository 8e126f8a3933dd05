"""Rendering a template once per order of roles instead of once per row: exact, or not done at all.

A conversation of plain turns is rendered with an `Unknown` in place of each content: a string that may be added, joined, written out and
trimmed, and that notes what else a template asks of it ("does it hold </think>?") as an assumption, answered with no. What comes out is an
outline: the template's own words with holes. A row whose contents meet all assumptions is the outline with its holes filled; every other
row, and every row of a template that does anything else with a content (measures, compares, splits, escapes it), goes through Jinja.
The first row of each outline is rendered both ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.compiler
import jinja2.nodes
import jinja2.runtime

from luthier.core.errors import DataError
from luthier.core.example import Message
from luthier.data.content import plain_roles
from luthier.data.shape import Shape
from luthier.data.template import Environment, Namespace, Template, prepared

KEPT = 512
"""Outlines kept per template: one per order of roles, with and without the opening of an answer."""
_OPEN, _CLOSE = "\ue000", "\ue001"
_HOLE = re.compile(f"{_OPEN}(-?\\d+){_CLOSE}")
_NO_HARM = frozenset({"trim", "default", "d", "string", "length", "count", "first", "last", "list", "selectattr", "rejectattr", "reverse"})
"""Filters that hand a content on as it is, or ask it (`Unknown` answers): what they do to other values does not matter."""


class _Touched(Exception):
    """The template does something with a content that an outline cannot hold."""


def _refuse(self: Unknown, *_: Any, **__: Any) -> Any:
    raise _Touched


class Unknown(str):
    """The content of message `place` (its trimmed content: ``~place``), or a text that holds such; see the module."""

    __slots__ = ("asked", "place")
    place: int | None
    asked: list[Asked]

    @classmethod
    def of(cls, place: int, asked: list[Asked]) -> Unknown:
        """A hole."""
        return cls._made(hole(place), place, asked)

    @classmethod
    def _made(cls, text: str, place: int | None, asked: list[Asked]) -> Unknown:
        made = cls(text)
        made.place, made.asked = place, asked
        return made

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> Unknown:
        return self._made(str.__str__(self) + other, None, self.asked)

    def __radd__(self, other: str) -> Unknown:
        return self._made(str.__add__(other, str.__str__(self)), None, self.asked)

    def __bool__(self) -> bool:
        return True  # contents of outlined rows hold more than white space

    def __contains__(self, words: object) -> bool:
        return self._ask("in", words)

    def startswith(self, words: Any, *at: Any) -> bool:
        """Assumed not to."""
        return self._ask("starts", words, *at)

    def endswith(self, words: Any, *at: Any) -> bool:
        """Assumed not to."""
        return self._ask("ends", words, *at)

    def strip(self, letters: str | None = None) -> str:
        """The trimmed content, or the content itself, assumed to have none of these letters at its ends."""
        if letters is not None:
            return self.lstrip(letters).rstrip(letters)
        if self.place is None:
            raise _Touched
        return self if self.place < 0 else self.of(~self.place, self.asked)

    def lstrip(self, letters: str | None = None) -> str:
        """Assumed not to begin with any of these letters."""
        for letter in letters or _refuse(self):
            self._ask("starts", letter)
        return self

    def rstrip(self, letters: str | None = None) -> str:
        """Assumed not to end with any of these letters."""
        for letter in letters or _refuse(self):
            self._ask("ends", letter)
        return self

    def _ask(self, question: str, words: object, *at: Any) -> bool:
        if self.place is None or type(words) is not str or at:
            raise _Touched
        self.asked.append((self.place, question, words))
        return False


for _name in set(dir(str)) - {"__new__", "__init__", "__class__", "__doc__", "__getattribute__", "__init_subclass__", "__subclasshook__"}:
    if _name not in Unknown.__dict__ and _name not in (
        "__setattr__",
        "__delattr__",
        "__dir__",
        "__reduce__",
        "__reduce_ex__",
        "__sizeof__",
    ):
        setattr(Unknown, _name, _refuse)


class _Code(jinja2.compiler.CodeGenerator):
    """Jinja's compiler, with ``~`` joined by the environment."""

    def visit_Concat(self, node: jinja2.nodes.Concat, frame: jinja2.compiler.Frame) -> None:
        self.write("environment.joined((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")


class _Outlining(Environment):
    """The environment of templates whose contents are unknown."""

    code_generator_class = _Code
    intercepted_binops = frozenset({"%", "*"})

    @staticmethod
    def joined(parts: Iterable[Any]) -> str:
        """The parts as one text, unknown where one of them is."""
        texts = [str(part) for part in parts]
        unknown = next((text for text in texts if type(text) is Unknown), None)
        plain = "".join(texts)
        return plain if unknown is None else Unknown._made(plain, None, unknown.asked)

    concat = joined

    def call(self, context: jinja2.runtime.Context, called: Any, *values: Any, **named: Any) -> Any:
        """Functions and methods get no unknown text; macros and namespaces do."""
        if called is not Namespace and not isinstance(called, jinja2.runtime.Macro):
            _known(*values, *(value for name, value in named.items() if name not in ("_loop_vars", "_block_vars")))  # jinja2's own
        return super().call(context, called, *values, **named)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        _known(left, right)
        return super().call_binop(context, operator, left, right)


def _known(*values: Any) -> None:
    for value in values:
        if isinstance(value, Unknown):
            raise _Touched
        if isinstance(value, dict | list | tuple):
            _known(*(value.values() if isinstance(value, dict) else value))


def _guarded(work: Any) -> Any:
    """A filter that gets no unknown text, not even inside of messages."""

    def filtered(*values: Any, **named: Any) -> Any:
        _known(*(value for value in (*values, *named.values()) if not isinstance(value, jinja2.Environment | jinja2.runtime.Context)))
        return work(*values, **named)

    for mark in ("jinja_pass_arg", "jinja_async_variant"):
        if hasattr(work, mark):
            setattr(filtered, mark, getattr(work, mark))
    return filtered


@lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    environment = prepared(_Outlining)
    environment.filters = {name: work if name in _NO_HARM else _guarded(work) for name, work in environment.filters.items()}
    return environment.from_string(source)


Asked = tuple[int, str, str]
"""What is assumed of a content: its place (of the trimmed content: ``~place``), a question, and the words that must not answer it."""


def meets(contents: Sequence[str], asked: Iterable[Asked]) -> bool:
    """Whether the contents are as was assumed."""
    for place, question, words in asked:
        content = contents[place] if place >= 0 else contents[~place].strip()
        if words in content and (question == "in" or (content.startswith(words) if question == "starts" else content.endswith(words))):
            return False
    return True


def hole(place: int) -> str:
    """The mark of a hole."""
    return f"{_OPEN}{place}{_CLOSE}"


def holes(text: str) -> tuple[str | int, ...]:
    """The words of the template in an outline and, as numbers, its holes."""
    return tuple(int(part) if number % 2 else part for number, part in enumerate(_HOLE.split(text)))


@dataclass(slots=True, frozen=True)
class Outline:
    """What a template writes around contents that meet what is `asked` of them. `text` has a mark for each hole, `parts` are its parts."""

    text: str
    parts: tuple[str | int, ...]
    asked: tuple[Asked, ...]

    def filled(self, contents: list[str]) -> str | None:
        """The text, or None where a content does not meet the assumptions."""
        if not meets(contents, self.asked):
            return None
        return "".join(
            [part if type(part) is str else contents[part] if part >= 0 else contents[~part].strip() for part in self.parts]  # type: ignore[index, operator]
        )


class Outlines:
    """The outlines of one template.

    Args:
        template, shape: as conversations are rendered without outlines.
    """

    def __init__(self, template: Template, shape: Shape) -> None:
        self._template, self._shape = template, shape
        self._known: dict[tuple[bool, tuple[str, ...]], Outline | None] = {}

    def __len__(self) -> int:
        """Outlines kept."""
        return len(self._known)

    def text(self, messages: Sequence[Message], *, generate: bool) -> str | None:
        """What the template writes, or None where only Jinja can tell."""
        roles = plain_roles(messages)
        if roles is None:
            return None
        contents = [message.content for message in messages]
        name = generate, roles
        if name not in self._known:
            if len(self._known) >= KEPT:
                self._known.clear()
            outline = self.drawn(roles, generate=generate)
            self._known[name] = outline if outline and self._holds(outline, messages, contents, generate) else None
        known = self._known[name]
        return known.filled(contents) if known is not None else None

    def drawn(self, roles: Sequence[str], *, generate: bool) -> Outline | None:
        """A new outline. Whether it is what Jinja writes is for its first row to show."""
        asked: list[Asked] = []
        if _OPEN in self._template.source or not roles:
            return None
        turns = self._shape.messages([Message(role, "x") for role in roles])
        for place, turn in enumerate(turns):
            turn["content"] = Unknown.of(place, asked)
        try:
            text = str.__str__(self._template.render(turns, generate=generate, by=_compiled(self._template.source)))
        except (_Touched, DataError):
            return None
        return Outline(text, holes(text), tuple(dict.fromkeys(asked)))

    def _holds(self, outline: Outline, messages: Sequence[Message], contents: list[str], generate: bool) -> bool:
        filled = outline.filled(contents)
        try:
            return filled is None or filled == self._template.render(self._shape.messages(messages), generate=generate)
        except DataError:
            return False
