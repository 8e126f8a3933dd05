"""The ledger: what each row teaches, in tokens, and what was done to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from luthier.core.errors import StorageError
from luthier.core.example import Source
from luthier.core.files import storing, write_bytes
from luthier.data.growing import Growing

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


class Ledger:
    """A ledger that is being written. `tokens` counts those of all rows so far."""

    def __init__(self) -> None:
        self._lines, self.tokens = Growing(SCHEMA), 0

    @property
    def rows(self) -> int:
        """Lines so far."""
        return self._lines.rows

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
        files = pa.array([source.file for source in sources], pa.string()).dictionary_encode()
        cut = np.zeros(len(sources), np.int64) if cut is None else cut
        rows = [source.row for source in sources]
        self._lines.add([files, rows, total, learned, total - learned, cut, reasons or [""] * len(sources)])
        self.tokens += int(total.sum())

    def told(self) -> bytes:
        """All lines, for another process."""
        return self._lines.told()

    def absorb(self, told: bytes) -> None:
        """The lines of a later part of the data."""
        self.tokens += int(pc.sum(self._lines.absorb(told)["total"]).as_py() or 0)

    def table(self) -> pa.Table:
        """The ledger as columns."""
        return self._lines.table()


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
