"""Lines of a text file, decoded, each bad one a flaw in its place."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.data.bytes import MAX_ROW_BYTES, Stream, lines
from luthier.data.json_rows import Flaw


def text_lines(stream: Stream) -> Iterator[tuple[int, str | Flaw]]:
    """Line number and line without its end, or what is wrong with it."""
    for row, line in enumerate(lines(stream), start=1):
        if line is None:
            yield row, Flaw(row, "", "row_too_big", f"The line is longer than {MAX_ROW_BYTES >> 20} MiB.", "Split it.")
            continue
        try:
            yield row, (line.removeprefix(b"\xef\xbb\xbf") if row == 1 else line).rstrip(b"\r").decode()
        except UnicodeDecodeError as bad:
            message = f"Byte {bad.start + 1} of the line (0x{line[bad.start]:02x}) is not UTF-8."
            yield row, Flaw(row, "", "invalid_utf8", message, "Save the file as UTF-8; from Windows: iconv -f CP1252 -t UTF-8.")
