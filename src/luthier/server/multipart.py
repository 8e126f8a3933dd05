"""Forms with files, read piece by piece: whatever its size, a file is never in memory as a whole.

    async for part in parts(request):      # in the order they were sent
        if part.is_file:
            async for piece in part: ...   # some ten kilobytes at a time
        else:
            text = await part.text()

The parser is python-multipart's; this file turns its callbacks into parts, and its complaints into answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from luthier.server.errors import WireError, invalid

LONGEST_TEXT = 4096
"""Bytes of a field that is not a file; the longest the wire has is a purpose or a number."""
MOST_PARTS = 32
LONGEST_HEADERS = 8192


@dataclass
class Part:
    """One part of the form.

    Attributes:
        name: its field. filename: as the client said it, unchecked; empty for a plain field.
    """

    name: str
    filename: str
    is_file: bool
    _form: _Form

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._form.pieces_of(self):
            yield piece

    async def text(self) -> str:
        """The field's value.

        Raises:
            WireError: it is longer than any value of this wire, or not UTF-8.
        """
        content = bytearray()
        async for piece in self:
            content += piece
            if len(content) > LONGEST_TEXT:
                raise invalid(f"The field is longer than {LONGEST_TEXT} bytes.", param=self.name, code="invalid_value")
        try:
            text = content.decode()
        except UnicodeDecodeError:
            raise invalid("The field is not UTF-8.", param=self.name, code="invalid_value") from None
        if "\0" in text:
            raise invalid("The field holds a NUL character.", param=self.name, code="invalid_value")
        return text


async def parts(request: Request) -> AsyncIterator[Part]:
    """The parts of a form, in the order they come. A part that is not read to its end is skipped.

    Raises:
        WireError: the request is no form, or a damaged one.
    """
    form = _Form(request, _boundary(request))
    async for part in form:
        yield part


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data":
        raise invalid("Send the file as Content-Type: multipart/form-data.", code="not_a_form")
    if not 1 <= len(boundary) <= 70:
        raise invalid("The form has no boundary of 1 to 70 characters in its Content-Type.", code="malformed_form")
    return boundary


@dataclass
class _Headers:
    """Headers of the part that begins."""

    name: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    known: dict[str, bytes] = field(default_factory=dict)
    total: int = 0


class _Form:
    """A push parser made into something to pull from: callbacks append to a queue that two iterators share."""

    def __init__(self, request: Request, boundary: bytes) -> None:
        self._stream = request.stream()
        self._queue: deque[Part | bytes | None] = deque()
        self._headers = _Headers()
        self._ended = False
        self._num_parts = 0
        self._parser = MultipartParser(boundary, self._callbacks())

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._on_begin,
            "on_header_field": lambda data, start, end: self._on_header(self._headers.name, data[start:end]),
            "on_header_value": lambda data, start, end: self._on_header(self._headers.value, data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": lambda data, start, end: self._queue.append(bytes(data[start:end])),
            "on_part_end": lambda: self._queue.append(None),
            "on_end": self._on_end,
        }

    def _on_begin(self) -> None:
        self._headers = _Headers()
        self._num_parts += 1
        if self._num_parts > MOST_PARTS:
            raise invalid(f"The form has more than {MOST_PARTS} parts.", code="malformed_form")

    def _on_header(self, sink: bytearray, piece: bytes) -> None:
        self._headers.total += len(piece)
        if self._headers.total > LONGEST_HEADERS:
            raise invalid("The headers of a part are too long.", code="malformed_form")
        sink += piece

    def _on_header_end(self) -> None:
        headers = self._headers
        headers.known[headers.name.decode("latin-1").lower()] = bytes(headers.value)
        headers.name, headers.value = bytearray(), bytearray()

    def _on_headers(self) -> None:
        kind, options = parse_options_header(self._headers.known.get("content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise invalid("A part of the form has no Content-Disposition with a name.", code="malformed_form")
        if self._headers.known.get("content-transfer-encoding", b"binary").lower() not in (b"binary", b"7bit", b"8bit"):
            raise invalid("A part of the form is encoded. Send it as it is.", code="malformed_form")
        name, filename = (options.get(key, b"").decode("utf-8", "replace") for key in (b"name", b"filename"))
        self._queue.append(Part(name, filename, b"filename" in options, self))

    def _on_end(self) -> None:
        self._ended = True

    async def _more(self) -> bool:
        """Parse what comes next; false once the body is over."""
        try:
            async for chunk in self._stream:
                if chunk:
                    self._parser.write(chunk)
                if self._queue:
                    return True
        except FormParserError as error:
            raise invalid(f"The form is damaged: {error}.", code="malformed_form") from None
        if not self._ended:
            raise invalid("The form ends before its last boundary.", code="malformed_form")
        return False

    async def __aiter__(self) -> AsyncIterator[Part]:
        while self._queue or await self._more():
            while self._queue:
                thing = self._queue.popleft()
                if isinstance(thing, Part):
                    yield thing

    async def pieces_of(self, part: Part) -> AsyncIterator[bytes]:
        while True:
            while self._queue:
                if isinstance(self._queue[0], Part):
                    return  # this part was read to its end before
                piece = self._queue.popleft()
                if piece is None:
                    return
                yield piece  # type: ignore[misc]
            if not await self._more():
                return


def too_large(limit: int) -> WireError:
    """413 for a file."""
    return WireError(
        413, f"The file is larger than {limit:,} bytes. Upload it in parts (/v1/uploads).", param="file", code="file_too_large"
    )
