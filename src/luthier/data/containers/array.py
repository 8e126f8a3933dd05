"""One JSON array of objects (``.json`` as data sets are often published), read element by element, never as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from luthier.data.bytes import MAX_ROW_BYTES, Stream
from luthier.data.head import Fit, Head
from luthier.data.json_rows import Flaw, Record, parse

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\],]', re.DOTALL)
"""A whole string, or one character of structure. A quote alone is a string whose end has not been read yet."""

_OPEN_STRING = 9
_STEP = {b"{": 1, b"[": 1, b"}": -1, b"]": -1, b",": 0, b'"': _OPEN_STRING}
"""What each character of structure does to the depth."""


def fits(head: Head) -> Fit | None:
    """A file that begins with ``[`` and then ``{`` (or is an array and empty)."""
    start = head.start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start[:1] == b"[" and start[1:].lstrip()[:1] in (b"{", b"]"):
        return Fit(0.97, "it is one JSON array of objects")
    return None


def records(stream: Stream, details: dict[str, Any]) -> Iterator[Record | Flaw]:
    """Each element as a Record or a Flaw; rows are numbers of elements."""
    for row, element in enumerate(_elements(stream), start=1):
        if isinstance(element, bytes):
            yield parse(element, row)
        else:
            yield Flaw(row, "", *element)


def _elements(stream: Stream) -> Iterator[bytes | tuple[str, str, str]]:
    """The array's elements as bytes. The last item may be a flaw (code, message, remedy) that ends the reading."""
    buffer, at, start, depth = b"", 0, 0, 0  # `at`: scanned up to here; `start`: where the present element begins
    while piece := stream.piece():
        buffer, at, start = buffer[start:] + piece, at - start, 0
        if len(buffer) > MAX_ROW_BYTES + len(piece):
            yield (
                "row_too_big",
                f"The row is longer than {MAX_ROW_BYTES >> 20} MiB; the rest was not read.",
                "Split it; a quote or bracket may be missing.",
            )
            return
        for token in _TOKEN.finditer(buffer, at):
            begin, at = token.span()
            step = _STEP.get(buffer[begin:at]) if at - begin == 1 else None
            if step is None:  # a string: nothing inside it is structure
                continue
            if step == _OPEN_STRING:
                at = begin  # the rest of it is in the next piece
                break
            depth += step
            if depth == 1 and step == 1:
                start = at
            elif depth == 0 or (depth == 1 and step == 0):
                if element := buffer[start:begin].strip():
                    yield element
                start = at
            if depth == 0:
                yield from _after(buffer[at:] + stream.piece())
                return
        else:
            at = len(buffer)
    yield (
        "invalid_json",
        "The file ends in the middle of the array: the last rows are missing.",
        "Copy the file again, or close the array with ].",
    )


def _after(rest: bytes) -> Iterator[tuple[str, str, str]]:
    """Anything but space after the end of the array is a flaw: it would be lost silently."""
    if rest.strip():
        yield (
            "invalid_json",
            "There is more after the end of the array; it was not read.",
            "Write all rows into one array, or one per line.",
        )
