"""Words and a tag for each: ``{"tokens": ["Anna", "flew"], "tags": ["B-PER", "O"]}``.

As a chat, the words ask and the tags answer, with spaces between.
"""

from __future__ import annotations

from typing import Any

from luthier.core.example import Example, Message, Source
from luthier.data.readers._findings import Findings

WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "pos_tags", "labels")
KNOWN = frozenset({*WORDS, *TAGS, "id"})
SHAPE = "tokens and tags, lists of equal length"


def _columns(row: dict[str, Any]) -> tuple[str, str]:
    words = next((name for name in WORDS if type(row.get(name)) is list), "")
    tags = next((name for name in TAGS if type(row.get(name)) is list), "")
    return words, tags


def fits(row: dict[str, Any]) -> float:
    """Rows with two lists, of words and of tags."""
    return 0.97 if all(_columns(row)) else 0.0


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a chat that keeps its words apart."""
    names = _columns(row)
    words, tags = (_texts(row.get(name), name or given[0], findings) for name, given in zip(names, (WORDS, TAGS), strict=True))
    if not findings.errors and len(words) != len(tags):
        what = f"There are {len(words)} words and {len(tags)} tags."
        findings.add(names[1], "unequal_lists", what, "Give every word one tag.")
    if findings.errors:
        return None
    asked, answer = Message("user", " ".join(words)), Message("assistant", " ".join(tags))
    return Example(source, "chat", [asked, answer], words=words)


def _texts(value: Any, name: str, findings: Findings) -> list[str]:
    if type(value) is not list or not value:
        findings.wrong_type(name, "a list", value)
        return []
    found = [findings.text(each, f"{name}.{place}").strip() for place, each in enumerate(value)]
    for place, text in enumerate(found):
        if not text or " " in text:
            findings.add(f"{name}.{place}", "bad_word", f"{text!r} is no word or tag.", "Write one word, without spaces.")
    return found
