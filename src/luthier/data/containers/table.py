"""A table of characters: ``.csv``, ``.tsv``, or the same under another name. What it is made of is guessed and reported.

Stray quotes survive: a quote that does not pair up is a character of its cell, and the rows after it stay rows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from luthier.data.bytes import MAX_ROW_BYTES, Stream
from luthier.data.head import Fit, Head
from luthier.data.json_rows import Flaw, Record
from luthier.data.table_shape import delimiter, encoding, has_header, parts, quoted

_MOST_LINES = 500
"""Longest cell in lines. Beyond it the opening quote is taken for a stray one."""


def fits(head: Head) -> Fit | None:
    """A file whose lines a delimiter cuts into equally many cells."""
    named = head.suffix in (".csv", ".tsv", ".tab")
    if (b"\x00" in head.start[:4096] and head.start[:2] not in (b"\xff\xfe", b"\xfe\xff")) or (head.suffix and not named):
        return None
    code = encoding(head.path, head.start)
    text = head.start.decode(code, errors="replace")
    lines = io.StringIO(text if head.whole else text[: text.rfind("\n") + 1], newline="").readlines()
    lines = [line for line in lines if line.strip()][:1000]
    mark, width, share = delimiter(lines, "\t" if head.suffix in (".tsv", ".tab") else ",")
    if share < (0.5 if named else 0.98) or (not named and len(lines) < 3):
        return _one_column(head, code, lines) if named else None
    syntax = quoted(lines, mark)
    quoting: Any = csv.QUOTE_MINIMAL if syntax else csv.QUOTE_NONE
    sample = [record for record in csv.reader(lines, delimiter=mark, quoting=quoting) if len(record) == width]
    header, why = has_header(sample)
    renamed, reason = parts(sample[1:] if header and sample[1:] else sample, sample[0] if header else None)
    names = sample[0] if header else [str(i) for i in range(1, width + 1)]
    details = {
        "delimiter": mark,
        "encoding": code,
        "quotes": syntax,
        "header": header,
        "columns": [renamed.get(n, n.strip()) for n in names],
    }
    told = f"{share:.0%} of its lines have {width} cells between {_spoken(mark)}; {why}" + (f"; {reason}" if reason else "")
    return Fit((0.95 if named else 0.7) * share, told, details)


def _one_column(head: Head, code: str, lines: list[str]) -> Fit:
    header = lines[0].strip().strip('"')
    details = {"delimiter": ",", "encoding": code, "quotes": True, "header": header == "text", "columns": ["text"]}
    return Fit(0.5, "one column of text", details)


def _spoken(mark: str) -> str:
    return {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}[mark]


def records(stream: Stream, details: dict[str, Any]) -> Iterator[Record | Flaw]:
    """Each record by column name; rows are line numbers, a cell with line ends counts from its first line."""
    csv.field_size_limit(MAX_ROW_BYTES)
    columns = details["columns"]
    text = io.TextIOWrapper(io.BufferedReader(stream, 1 << 20), encoding=details["encoding"], errors="surrogateescape", newline="")
    lines = _Lines(text)
    quoting = csv.QUOTE_MINIMAL if details["quotes"] else csv.QUOTE_NONE
    skip = details["header"]
    for row, cells in _rows(lines, details["delimiter"], quoting, len(columns)):
        if isinstance(cells, Flaw):
            yield cells
        elif not cells:
            continue  # a line without characters: between rows and at the end it means nothing
        elif skip:
            skip = False
        elif len(cells) != len(columns):
            yield _wrong_width(row, cells, columns)
        elif bad := next((i for i, cell in enumerate(cells) if not cell.isascii() and _undecoded(cell)), None):
            yield _not_text(row, columns[bad], details["encoding"])
        else:
            yield Record(row, dict(zip(columns, cells, strict=True)))


def _rows(lines: _Lines, mark: str, quoting: Any, width: int) -> Iterator[tuple[int, list[str] | Flaw]]:
    """Cells of each record. A record that quotes made too long, or too wide, is read again as one plain line."""
    while True:
        lines.begin()
        row = lines.number + 1
        try:
            cells = next(csv.reader(lines, delimiter=mark, quoting=quoting, strict=True), None)
        except csv.Error:
            cells = []
        if lines.too_big:
            yield (
                row,
                Flaw(row, "", "row_too_big", f"The line is longer than {MAX_ROW_BYTES >> 20} MiB.", "Split it; a line end may be missing."),
            )
            continue
        if cells is None or not lines.taken:
            return
        if len(cells) != width and quoting != csv.QUOTE_NONE and lines.taken[0].strip():
            first = lines.only_first()
            loose = next(csv.reader([first], delimiter=mark))
            plain = next(csv.reader([first], delimiter=mark, quoting=csv.QUOTE_NONE))
            cells = loose if len(loose) == width and "\n" not in "".join(loose) else plain
        yield row, cells


class _Lines:
    """Lines that can be put back, so that a record begun by a stray quote can be read again."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._back = text, list[str]()
        self.number, self.taken, self.too_big = 0, list[str](), False

    def begin(self) -> None:
        """A new record begins here."""
        self.taken, self.too_big = [], False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= _MOST_LINES:
            raise StopIteration
        line = self._back.pop() if self._back else self._text.readline(MAX_ROW_BYTES)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken.append(line)
        if len(line) >= MAX_ROW_BYTES and not line.endswith("\n"):
            self._skip_line()
        return line

    def _skip_line(self) -> None:
        self.too_big = True
        while (rest := self._text.readline(MAX_ROW_BYTES)) and not rest.endswith("\n"):
            pass

    def only_first(self) -> str:
        """Keep the record's first line and put the others back."""
        first, *others = self.taken
        self._back.extend(reversed(others))
        self.number -= len(others)
        self.taken = [first]
        return first


def _undecoded(cell: str) -> bool:
    return any("\udc80" <= character <= "\udcff" for character in cell)


def _wrong_width(row: int, cells: list[str], columns: list[str]) -> Flaw:
    message = f"{len(cells)} cells, but there are {len(columns)} columns ({', '.join(columns)})."
    return Flaw(row, "", "wrong_columns", message, "Put cells that hold the delimiter in quotes, or add the missing ones.")


def _not_text(row: int, column: str, code: str) -> Flaw:
    return Flaw(row, column, "invalid_utf8", f"The cell holds bytes that are not {code}.", "Save the file as UTF-8.")
