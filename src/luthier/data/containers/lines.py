"""JSON lines: one object per line (``.jsonl``, ``.ndjson``, or ``.json`` written that way)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from luthier.data.bytes import MAX_ROW_BYTES, Stream, lines
from luthier.data.head import Fit, Head
from luthier.data.json_rows import Flaw, Record, parse

BOM = b"\xef\xbb\xbf"


def fits(head: Head) -> Fit | None:
    """A file whose first lines are objects, or are meant to be."""
    begin = [line for line in head.start.removeprefix(BOM).split(b"\n")[:200] if line.strip()]
    begun = sum(line.lstrip().startswith(b"{") for line in begin)
    complete = sum(line.rstrip().endswith(b"}") for line in begin)
    if head.suffix in (".jsonl", ".ndjson"):
        return Fit(0.95, f"its name ends in {head.suffix}") if not begin[0].lstrip().startswith(b"[{") else None
    if begun and begun >= 0.8 * len(begin) and complete >= 0.5 * len(begin):
        return Fit(0.9, "its lines are JSON objects")
    return None


def records(stream: Stream, details: dict[str, Any]) -> Iterator[Record | Flaw]:
    """Each line as a Record or a Flaw; rows are line numbers. Blank lines are passed over and told once at the end."""
    blank, first_blank = yield from rows(stream, first=1)
    if blank:
        yield blank_lines(blank, first_blank)


def rows(stream: Stream, *, first: int, wanted: frozenset[int] | None = None) -> Generator[Record | Flaw, None, tuple[int, int]]:
    """The lines of a part of a file whose first line is number `first`, or those `wanted`; returns how many were blank, and the first."""
    blank = first_blank = 0
    for row, line in enumerate(lines(stream), start=first):
        if wanted is not None and row not in wanted:
            continue
        if line is None:
            yield too_big(row)
        elif line and not line.isspace():
            yield parse(line.removeprefix(BOM) if row == 1 else line, row)
        else:
            blank, first_blank = blank + 1, first_blank or row
    return blank, first_blank


def blank_lines(count: int, first: int) -> Flaw:
    """What is told of lines that were passed over."""
    return Flaw(first, "", "blank_line", f"{count:,} blank lines, this is the first.", "Delete them; they are passed over.", "warning")


def too_big(row: int) -> Flaw:
    """The flaw of a row beyond `MAX_ROW_BYTES`."""
    return Flaw(row, "", "row_too_big", f"The row is longer than {MAX_ROW_BYTES >> 20} MiB.", "Split it; a line end may be missing.")
