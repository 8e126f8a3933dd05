"""What a row says, without how it is written: the bytes behind duplicates, leakage and the split, and the words behind near duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from luthier.core.example import Example, Message
from luthier.data.json_rows import dumps

HASH_BYTES = 16

_SILENT = frozenset({"system", "developer"})

_LETTERS = str.maketrans("0123456789", "ghijklmnop")
"""A hash among words is spelled in letters: its digits could look like somebody's card number."""


def content(example: Example) -> bytes:
    """Everything of `example` that is shown or learned, as bytes. Equal for equal rows of any format; weights and labels do not count."""
    if example.form == "text":
        return example.text.encode()
    pieces = [f"{message.role}\x1f{message.content}" for message in example.messages]
    if example.chosen or example.rejected:
        pieces += ["\x1dchosen", *(f"{m.role}\x1f{m.content}" for m in example.chosen)]
        pieces += ["\x1drejected", *(f"{m.role}\x1f{m.content}" for m in example.rejected)]
    plain = "\x1e".join(pieces).encode()
    more = _more(_turns(example), example.tools)
    return plain + more if more else plain


def _turns(example: Example) -> list[Message]:
    """All messages of a row, its answers to compare among them."""
    sides = example.chosen or example.rejected
    return [*example.messages, *example.chosen, *example.rejected] if sides else example.messages


def _more(messages: list[Message], tools: list[dict[str, Any]]) -> bytes:
    """The rarer parts of a row."""
    rare = [
        [index, message.thinking, message.tool_calls, *(medium.digest for medium in message.media)]
        for index, message in enumerate(messages)
        if message.tool_calls or message.thinking or message.media
    ]
    return dumps([rare, tools]) if rare or tools else b""


def digest(content: bytes) -> bytes:
    """16 bytes that stand for a row's content: two of a billion rows collide with probability 1e-21."""
    return blake2b(content, digest_size=HASH_BYTES).digest()


def words(example: Example) -> str:
    """What is said in the row apart from system turns: those repeat from row to row and would make all rows look alike."""
    if example.form == "text":
        return example.text
    turns = _turns(example)
    said = [message.content for message in turns if message.role not in _SILENT]
    seen = [
        medium.digest.translate(_LETTERS) for message in turns if message.media and message.role not in _SILENT for medium in message.media
    ]
    return "\n".join(said + seen)


def plain_roles(messages: Sequence[Message]) -> tuple[str, ...] | None:
    """The order of roles, where each message is a role and words that count in full, and nothing more."""
    for message in messages:
        content = message.content
        if message.tool_calls or message.thinking or message.tool_call_id or message.name or message.media or message.weight != 1.0:
            return None
        if not content or content.isspace():
            return None
    return tuple([message.role for message in messages])
