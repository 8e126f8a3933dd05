"""Plain text. One document is, in this order of preference:

1. what stands between lines ``<|endoftext|>``, where the file has them;
2. a block of lines between blank lines, where the file has blank lines;
3. a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from luthier.data.bytes import MAX_ROW_BYTES, Stream
from luthier.data.containers._text_lines import text_lines
from luthier.data.head import Fit, Head
from luthier.data.json_rows import Flaw, Record

SEPARATOR = "<|endoftext|>"


def fits(head: Head) -> Fit | None:
    """A file of words: named so, or with nothing else to be."""
    if b"\x00" in head.start or head.start[:4] == b"PAR1" or head.suffix in (".json", ".jsonl", ".ndjson", ".yaml", ".xml", ".html"):
        return None
    ends = _cut(head.start)
    told = {
        "separator": f"documents end with {SEPARATOR}",
        "blank": "a document is a block between blank lines",
        "line": "a document is a line",
    }[ends]
    named = head.suffix in (".txt", ".text", ".md")
    return Fit(0.9 if named else 0.3, (f"its name ends in {head.suffix}; " if named else "nothing but text; ") + told, {"documents": ends})


def _cut(start: bytes) -> str:
    lines = [line.strip() for line in start.strip().split(b"\n")]
    return "separator" if SEPARATOR.encode() in lines else "blank" if b"" in lines else "line"


def records(stream: Stream, details: dict[str, Any]) -> Iterator[Record | Flaw]:
    """Each document as ``{"text": ...}``; rows are the lines they begin at."""
    ends = {"separator": SEPARATOR, "blank": "", "line": None}[details["documents"]]
    held: list[str] = []
    first = size = 0
    for row, line in text_lines(stream):
        if isinstance(line, Flaw):
            yield line
            continue
        if ends is None or line.strip() != ends:
            first = first if held else row
            held.append(line)
            size += len(line)
        if held and (ends is None or line.strip() == ends or size > MAX_ROW_BYTES):
            yield from _document(first, held)
            held, size = [], 0
    if held:
        yield from _document(first, held)


def _document(row: int, lines: list[str]) -> Iterator[Record | Flaw]:
    text = "\n".join(lines).strip("\n")
    if len(text) > MAX_ROW_BYTES:
        yield Flaw(row, "", "row_too_big", f"The document is longer than {MAX_ROW_BYTES >> 20} MiB.", "Separate documents by blank lines.")
    elif text.strip():
        yield Record(row, {"text": text})
