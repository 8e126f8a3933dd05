"""Which texts the bundled base reads, in which proportion, as a stream of documents in a fixed order.

Every text here may be redistributed; licences and attribution stand in ``attribution.md`` beside this file and in the model's card.
The held-out file is never opened here.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHARES = {
    "microsoft-support": 1.0,
    "github-docs": 1.0,
    "team-chat-help": 1.0,
    "us-government": 1.0,
    "openstax": 1.0,
    "openstax-earlier": 1.0,
    "narrative": 1.0,
    "business-help": 0.5,
    "office-admin-help": 0.3,
    "python-docs": 0.4,
    "kubernetes-docs": 0.3,
}
"""Share of each group's documents that is read. Administration manuals repeat themselves and teach little plain
English, so they are thinned; stories, textbooks and help articles are read whole."""


@dataclass(slots=True, frozen=True)
class Document:
    """One text and the group it came from."""

    group: str
    text: str


def documents(shared: Path, *, seed: int = 0) -> list[Document]:
    """Every document of the mix, in an order that depends on `seed` alone, so that any beginning of it is a fair sample.

    Args:
        shared: the folder that holds ``corpus/`` and ``data/``.
    """
    chosen = [d for group, share in SHARES.items() for d in _group(shared / "corpus" / f"{group}.jsonl.gz", share)]
    chosen += [Document("novels", t) for t in novels(shared / "data/txt_gutenberg/bronte.txt")]
    chosen += [Document("short-stories", t) for t in short_stories(shared / "data/txt_tinystories/tinystories_sample.txt")]
    random.Random(seed).shuffle(chosen)
    return chosen


def _group(file: Path, share: float) -> Iterator[Document]:
    """The documents of one group that belong to its share: decided by a hash of the text, so that it does not depend on file order."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"].strip()
            if int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 < share:
                yield Document(file.name.removesuffix(".jsonl.gz"), text)


def novels(file: Path, *, length: int = 16_000) -> Iterator[str]:
    """A file of novels with hard line breaks, as pieces of about `length` characters that end with a paragraph."""
    piece: list[str] = []
    for paragraph in unwrapped(file.read_text(encoding="utf-8", errors="replace")):
        piece.append(paragraph)
        if sum(map(len, piece)) >= length:
            yield "\n\n".join(piece)
            piece = []
    if piece:
        yield "\n\n".join(piece)


def unwrapped(text: str) -> Iterator[str]:
    """The paragraphs of a text whose lines were broken by hand: joined to one line, two blanks to one, curly quotes made straight."""
    straight = text.replace("\r", "").translate(str.maketrans("“”‘’", "\"\"''")).replace("_", "")
    for paragraph in straight.split("\n\n"):
        if joined := " ".join(paragraph.split()):
            yield joined


def short_stories(file: Path) -> Iterator[str]:
    """A file of stories of a few paragraphs, in groups of eight paragraphs: the file does not mark where one ends."""
    paragraphs = list(unwrapped(file.read_text(encoding="utf-8", errors="replace").replace("<|endoftext|>", "\n\n")))
    for start in range(0, len(paragraphs), 8):
        yield "\n\n".join(paragraphs[start : start + 8])
