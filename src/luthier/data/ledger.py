"""The ledger: what each row teaches, in tokens, and what was done to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from luthier.core.errors import StorageError
from luthier.core.example import Source
from luthier.core.files import storing, write_bytes
from luthier.core.sequence import Sequence

SCHEMA = pa.schema(
    [
        ("file", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int64()),
        ("total", pa.int64()),
        ("learned", pa.int64()),
        ("masked", pa.int64()),
        ("cut", pa.int64()),
        ("reason", pa.string()),
    ]
)
"""One line per row of data. ``total`` counts the tokens of all its paths, ``learned`` those of positive weight, ``masked`` the others,
``cut`` what ``data.too_long`` took away; ``reason`` says why, and is empty for a row that is taken as it is."""


CHUNK = 4096
"""Lines held as Python objects before they become columns: a ledger of a million rows then costs some 60 MB."""


@dataclass(slots=True)
class Ledger:
    """A ledger that is being written."""

    lines: list[tuple[str, int, int, int, int, int, str]] = field(default_factory=list)
    chunks: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    tokens: int = 0

    def add(self, source: Source, sequences: list[Sequence], *, cut: int = 0, reason: str = "") -> int:
        """Enter a row; returns how many of its tokens are learned."""
        total = learned = 0
        for sequence in sequences:
            total += len(sequence.tokens)
            learned += int(np.count_nonzero(sequence.weights))
        self.lines.append((source.file, source.row, total, learned, total - learned, cut, reason))
        self.rows += 1
        self.tokens += total
        if len(self.lines) == CHUNK:
            self._close_chunk()
        return learned

    def told(self) -> bytes:
        """All lines, for another process."""
        sink, table = pa.BufferOutputStream(), self.table()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    def absorb(self, told: bytes) -> None:
        """The lines of a later part of the data."""
        self._close_chunk()
        self.chunks.append(pa.ipc.open_stream(told).read_all())
        self.rows += self.chunks[-1].num_rows

    def table(self) -> pa.Table:
        """The ledger as columns."""
        self._close_chunk()
        return pa.concat_tables(self.chunks).unify_dictionaries()

    def _close_chunk(self) -> None:
        columns = list(zip(*self.lines, strict=True)) or [() for _ in SCHEMA]
        arrays = [pa.array(column, type=kind.type) for column, kind in zip(columns, SCHEMA, strict=True)]
        self.chunks.append(pa.table(arrays, schema=SCHEMA))
        self.lines.clear()


@dataclass(slots=True, frozen=True)
class Totals:
    """Sums of a ledger. `rows` counts those that are read, `dropped` those that are not."""

    rows: int
    dropped: int
    tokens: int
    learned: int
    masked: int
    cut: int


def totals(ledger: pa.Table) -> Totals:
    """Add a ledger up."""
    read = int(pc.sum(pc.greater(ledger["total"], 0)).as_py() or 0)
    tokens, learned, masked, cut = (int(pc.sum(ledger[name]).as_py() or 0) for name in ("total", "learned", "masked", "cut"))
    return Totals(read, ledger.num_rows - read, tokens, learned, masked, cut)


def save(ledger: pa.Table, file: Path) -> None:
    """Write ``ledger.parquet``, whole or not at all.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    sink = pa.BufferOutputStream()
    pq.write_table(ledger, sink, compression="zstd")
    write_bytes(file, sink.getvalue().to_pybytes())


def read(file: Path) -> pa.Table:
    """Read ``ledger.parquet``.

    Raises:
        StorageError: the file is not there or is damaged.
    """
    try:
        with storing(file):
            return pq.read_table(file, schema=SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowException) as error:
        raise StorageError(f"The ledger cannot be read: {error}.", where=str(file), remedy="Tokenise the data again.") from error
