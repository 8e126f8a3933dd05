"""The ledger: what each row teaches, in tokens, and what was done to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from luthier.core.errors import StorageError
from luthier.core.example import Source
from luthier.core.files import storing, write_bytes

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


@dataclass(slots=True)
class Ledger:
    """A ledger that is being written."""

    chunks: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    tokens: int = 0

    def enter(
        self,
        sources: list[Source],
        total: NDArray[np.int64],
        learned: NDArray[np.int64],
        *,
        cut: NDArray[np.int64] | None = None,
        reasons: list[str] | None = None,
    ) -> None:
        """Enter rows: tokens of each, and what was cut and why, where anything was."""
        none = np.zeros(len(sources), np.int64)
        columns = [
            pa.array([source.file for source in sources], pa.string()).dictionary_encode(),
            [source.row for source in sources],
            total,
            learned,
            total - learned,
            none if cut is None else cut,
            reasons or [""] * len(sources),
        ]
        self.chunks.append(pa.table([pa.array(column, kind.type) for column, kind in zip(columns, SCHEMA, strict=True)], schema=SCHEMA))
        self.rows += len(sources)
        self.tokens += int(total.sum())

    def told(self) -> bytes:
        """All lines, for another process."""
        sink, table = pa.BufferOutputStream(), self.table()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    def absorb(self, told: bytes) -> None:
        """The lines of a later part of the data."""
        self.chunks.append(pa.ipc.open_stream(told).read_all())
        self.rows += self.chunks[-1].num_rows
        self.tokens += int(pc.sum(self.chunks[-1]["total"]).as_py() or 0)

    def table(self) -> pa.Table:
        """The ledger as columns."""
        return pa.concat_tables([SCHEMA.empty_table(), *self.chunks]).unify_dictionaries()


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
