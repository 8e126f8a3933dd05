"""One thing to learn from, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Form = Literal["chat", "completion", "preference", "judged", "text"]


@dataclass(slots=True, frozen=True)
class Source:
    """Provenance: the file as the user named it, and the 1-based line (or record) in it."""

    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file} row {self.row}"


MARK = "\ufffc"
"""Stands among a message's words where a picture or a sound is: Unicode's own character for an object."""


@dataclass(slots=True, frozen=True)
class Medium:
    """A picture or a sound a row names.

    Attributes:
        kind: what it is. path: of its file. digest: the beginning of its SHA-256 when it was checked, as hex.
    """

    DIGEST_BYTES: ClassVar[int] = 16

    kind: Literal["image", "audio"]
    path: str
    digest: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.digest}:{self.path}"

    @classmethod
    def parse(cls, reference: str) -> Medium:
        """What `str` told."""
        kind, digest, path = reference.split(":", 2)
        return cls("audio" if kind == "audio" else "image", path, digest)


@dataclass(slots=True)
class Message:
    """One turn of a conversation.

    Attributes:
        role: ``system``, ``developer``, ``user``, ``assistant`` or ``tool``.
        content: the words; empty for an assistant turn that only calls tools.
        weight: how much this turn counts when it is learned, 0 to 1 (OpenAI's ``weight``); 0 shows it without learning it.
        thinking: the assistant's reasoning before the answer, where the data has it.
        tool_calls: OpenAI shape, ``{"id", "type": "function", "function": {"name", "arguments"}}``; arguments stay as given.
        tool_call_id: for a ``tool`` turn, the call it answers.
        name: for a ``tool`` turn the tool, else the speaker.
        media: pictures and sounds, in the order of the marks (`MARK`) in `content`.
    """

    role: str
    content: str = ""
    weight: float = 1.0
    thinking: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    tool_call_id: str = ""
    name: str = ""
    media: tuple[Medium, ...] = ()


@dataclass(slots=True)
class Example:
    """One row of data, in the one shape every reader produces.

    Attributes:
        source: where it came from.
        form: ``chat`` (messages), ``completion`` (messages holds exactly a user and an assistant turn, to be joined without a
            template when the model has none), ``preference`` (messages is the prompt; chosen and rejected are its two
            continuations), ``judged`` (the same with one of the two), ``text`` (plain text, all of it learned).
        label: the answer as a class name where the data says it is one (a CSV's label column), else empty.
        pair: the second of two texts the row is about, e.g. a premise and a claim. It also stands at the end of the question, behind an
            empty line, for models that read one text.
        words: those the answer gives a tag each, where it does (`data.readers.tagged`), else empty.
        group: value of the grouping field that keeps related rows on one side of the split, else empty.
    """

    source: Source
    form: Form = "chat"
    messages: list[Message] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    chosen: list[Message] = field(default_factory=list)
    rejected: list[Message] = field(default_factory=list)
    text: str = ""
    label: str = ""
    pair: str = ""
    words: list[str] = field(default_factory=list)
    group: str = ""

    @property
    def sided(self) -> bool:
        """Whether its answers are good or bad, and stand beside its messages."""
        return self.form in ("preference", "judged")
