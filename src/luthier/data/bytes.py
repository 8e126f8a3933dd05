"""The bytes of a file, unpacked when they are gzip, read in pieces, with progress and a guard against bombs."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from luthier.core.errors import DataError, NotFound, StorageError

OnBytes = Callable[[int, int], None]
"""Called with bytes of the file read so far (of the packed file for .gz) and its size."""

PIECE = 1 << 20
MAX_ROW_BYTES = 16 << 20
"""Longest row that is read: 16 MiB is some four million tokens, far beyond what any model reads. Longer ones become a problem."""

BOMB_BYTES, BOMB_RATIO = 256 << 20, 200
"""A .gz may unpack to 256 MiB freely, then to at most 200 times its own size. Rows of data pack 3 to 30 times; a bomb about 1,000."""


class Stream(io.RawIOBase):
    """A binary file that unpacks gzip (told by its first two bytes, not by its name), counts, and reports progress."""

    def __init__(self, path: Path, raw: BinaryIO, on_bytes: OnBytes | None, span: tuple[int, int] | None = None) -> None:
        self._path, self._raw, self._on_bytes = path, raw, on_bytes
        self._size = raw.seek(0, io.SEEK_END)
        raw.seek(0)
        self.packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        self._inner: BinaryIO = gzip.GzipFile(fileobj=raw) if self.packed else raw  # type: ignore[assignment]
        self._unpacked = 0
        self._left = self._size
        if span is not None:
            raw.seek(span[0])
            self._left = span[1] - span[0]

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill `buffer`; see `io.RawIOBase`."""
        view = memoryview(buffer)  # type: ignore[arg-type]
        piece = self.piece(len(view))
        view[: len(piece)] = piece
        return len(piece)

    def piece(self, size: int = PIECE) -> bytes:
        """The next at most `size` bytes; empty at the end.

        Raises:
            DataError: the .gz is damaged, ends early, or is a bomb.
        """
        try:
            content = self._inner.read(size if self.packed else min(size, self._left))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self._damaged(error) from error
        self._unpacked += len(content)
        self._left -= len(content)
        if self.packed and self._unpacked > max(BOMB_BYTES, BOMB_RATIO * self._size):
            raise self._bomb()
        if self._on_bytes:
            self._on_bytes(self._raw.tell(), self._size)
        return content

    def seekable_file(self) -> BinaryIO | None:
        """The file itself when it is not packed, for formats that are read from their end."""
        return None if self.packed else self._raw

    def report(self, share: float) -> None:
        """Say how far a reader of `seekable_file` has come, 0 to 1."""
        if self._on_bytes:
            self._on_bytes(int(share * self._size), self._size)

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"The .gz is damaged or cut off: {error}.",
            where=str(self._path),
            remedy="Copy it again, or repack it with gzip.",
            code="damaged_gzip",
        )

    def _bomb(self) -> DataError:
        return DataError(
            f"{self._size:,} packed bytes unpack to more than {self._unpacked:,}: this is not data, it is a bomb.",
            where=str(self._path),
            remedy="If it is really yours, unpack it yourself and name the unpacked file.",
            code="bomb",
        )


@contextmanager
def opened(path: Path, on_bytes: OnBytes | None = None, span: tuple[int, int] | None = None) -> Iterator[Stream]:
    """Open `path` for reading, unpacking gzip on the way.

    Args:
        span: read only these bytes, from and to; not of a packed file.

    Raises:
        NotFound: there is no such file. StorageError: it cannot be read. DataError: see `Stream.piece`.
    """
    try:
        raw = open(path, "rb")  # noqa: SIM115 -- closed below, outside of the except clauses
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound("There is no such file.", where=str(path), remedy="Check the name and the folder.") from error
    except IsADirectoryError as error:
        raise NotFound("This is a folder, not a file of examples.", where=str(path), remedy="Name one file in it.") from error
    except OSError as error:
        raise StorageError(f"Could not read: {error.strerror}.", where=str(path), remedy="Check the permissions of the file.") from error
    with raw:
        yield Stream(path, raw, on_bytes, span)


def inner_suffix(path: Path) -> str:
    """The suffix below ``.gz``, in lower case: ``.csv`` of ``tickets.csv.gz``."""
    return Path(path.name[:-3] if path.name.lower().endswith(".gz") else path.name).suffix.lower()


def lines(stream: Stream) -> Iterator[bytes | None]:
    """Lines without their ends; None for one that is too big to hold."""
    rest: list[bytes] = []
    held, skipping = 0, False
    while piece := stream.piece():
        first, *others = piece.split(b"\n")
        held += len(first)
        if held > MAX_ROW_BYTES:
            rest, skipping = [], True
        elif not skipping:
            rest.append(first)
        if others:
            yield None if skipping else b"".join(rest)
            yield from others[:-1]
            rest, held, skipping = [others[-1]], len(others[-1]), False
    if skipping or held:
        yield None if skipping else b"".join(rest)
