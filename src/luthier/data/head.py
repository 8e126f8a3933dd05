"""The first look at a file: its beginning, and what was concluded from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.data.bytes import inner_suffix, opened

HEAD_BYTES = 1 << 20
"""How much of a file is looked at before it is read."""


@dataclass(frozen=True)
class Head:
    """The beginning of a file.

    Attributes:
        path: the file. suffix: below ``.gz``, in lower case. packed: it is gzip.
        start: its first `HEAD_BYTES` unpacked bytes. whole: that is all of it.
    """

    path: Path
    suffix: str
    packed: bool
    start: bytes
    whole: bool


@dataclass(frozen=True)
class Fit:
    """How surely something matches (0 to 1), the reason as half a sentence, and what was found out on the way."""

    confidence: float
    reason: str
    details: dict[str, Any] = field(default_factory=dict)


def look(path: Path) -> Head:
    """Read the beginning of `path`.

    Raises:
        NotFound, StorageError: it cannot be opened. DataError: it is empty, or a damaged .gz.
    """
    with opened(path) as stream:
        pieces: list[bytes] = []
        size = 0
        while size < HEAD_BYTES and (piece := stream.piece(HEAD_BYTES - size)):
            pieces.append(piece)
            size += len(piece)
        whole = not stream.piece(1)
    start = b"".join(pieces)
    if not start.strip():
        raise DataError("The file is empty.", where=str(path), remedy="Put at least 10 examples into it.", code="empty_file")
    return Head(path, inner_suffix(path), stream.packed, start, whole)
