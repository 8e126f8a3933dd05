"""Rows of tokens on disk, read through memory mapping: data larger than memory costs no memory.

A table is a folder in the cache: ``tokens.arrow`` (one record per path; of a large file several such parts, ``tokens-00000.arrow`` and so
on), ``ledger.parquet`` and ``meta.json`` with their checksums. `luthier.data.tokenise` makes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from luthier.core.errors import StorageError
from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence
from luthier.data import ledger as ledgers
from luthier.data.ledger import Ledger, Totals
from luthier.data.refusals import teaches_nothing

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("file", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int64()),
        ("part", pa.dictionary(pa.int8(), pa.string())),
        ("tokens", pa.list_(pa.int32())),
        ("weights", pa.list_(pa.float32())),
    ]
)


class TokenTable:
    """Rows of token paths (implements `core.sequence.Rows`): arrays are views into the mapped file, not copies.

    Attributes:
        ledger: what each row teaches, dropped rows included. totals: its sums.
        fingerprint: hash of everything that decided the content.
    """

    def __init__(self, parts: list[pa.Table], ledger: pa.Table, *, fingerprint: str) -> None:
        self.table, self.ledger, self.fingerprint = pa.concat_tables(parts), ledger, fingerprint
        self._batches = [_Batch(batch) for batch in self.table.to_batches()]
        self._ends = np.cumsum([len(batch.rows) for batch in self._batches]).tolist()
        index = _rows_of(parts)
        self._first = np.append(np.flatnonzero(np.diff(index, prepend=-1)), len(index))  # [rows + 1], place of each row's first path

    @property
    def totals(self) -> Totals:
        """Sums of the ledger."""
        return ledgers.totals(self.ledger)

    def __len__(self) -> int:
        return len(self._first) - 1

    def __getitem__(self, index: int, /) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        places = range(int(self._first[index]), int(self._first[index + 1]))
        batch, place = self._find(places[0])
        return Row(Source(batch.files[place], int(batch.rows[place])), [self._sequence(path) for path in places])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def beginnings(self, rows_n: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int32]:
        """Tokens `start` to `stop` of the first path of some rows, ascending: ``[n, stop - start]``, -1 behind a path's end."""
        found = np.full((len(rows_n), stop - start), -1, np.int32)
        paths = self._first[rows_n]
        bounds = np.searchsorted(paths, [0, *self._ends])
        for batch, before, first, last in zip(self._batches, [0, *self._ends], bounds, bounds[1:], strict=False):
            if first < last:
                places = paths[first:last] - before
                at = batch.offsets[places][:, None] + np.arange(start, stop)
                inside = at < batch.offsets[places + 1][:, None]
                found[first:last] = np.where(inside, batch.tokens[np.minimum(at, len(batch.tokens) - 1)], -1)
        return found

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> TokenTable:
        """A table in memory from ready-made ids.

        Raises:
            DataError: a row teaches nothing.
        """
        ledger, records, digest = Ledger(), Records(), hashlib.sha256()
        for row in rows:
            if not ledger.add(row.source, row.sequences):
                raise teaches_nothing(row.source)
            records.add(row.source, row.sequences)
            for sequence in row.sequences:
                digest.update(sequence.tokens.tobytes() + sequence.weights.tobytes() + sequence.part.encode())
        return cls([pa.Table.from_batches(records.batch())], ledger.table(), fingerprint=digest.hexdigest())

    @classmethod
    def open(cls, folder: Path) -> TokenTable:
        """Map a table that `tokenise` wrote.

        Raises:
            StorageError: it is not there, or its checksums do not hold.
        """
        try:
            meta = json.loads((folder / "meta.json").read_text())
            for name, checksum in meta["checksums"].items():
                if checksum_of(folder / name) != checksum:
                    raise ValueError(f"{name} is not what was written")
            with contextlib.suppress(OSError):  # a cache that may only be read
                os.utime(folder / "meta.json")  # in use: see `tokenise.KEPT_DAYS`
            parts = [_mapped(folder / name) for name in sorted(meta["checksums"]) if name.endswith(".arrow")]
            return cls(parts, ledgers.read(folder / "ledger.parquet"), fingerprint=folder.name)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise StorageError(
                f"The token table cannot be used: {error}.", where=str(folder), remedy="It is made again from the data."
            ) from error

    def _find(self, path: int) -> tuple[_Batch, int]:
        number = bisect_right(self._ends, path)
        return self._batches[number], path - (self._ends[number - 1] if number else 0)

    def _sequence(self, path: int) -> Sequence:
        batch, place = self._find(path)
        start, stop = batch.offsets[place], batch.offsets[place + 1]
        return Sequence(batch.tokens[start:stop], batch.weights[start:stop], batch.parts[place])


class _Batch:
    """One record batch as numpy views."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        tokens, weights = batch.column("tokens"), batch.column("weights")
        self.offsets = tokens.offsets.to_numpy()
        self.tokens, self.weights = tokens.values.to_numpy(), weights.values.to_numpy()
        self.rows = batch.column("row").to_numpy()
        self.parts, self.files = _Words(batch.column("part")), _Words(batch.column("file"))


class _Words:
    """A dictionary column, one word at a time."""

    def __init__(self, column: pa.DictionaryArray) -> None:
        self.words, self.places = column.dictionary.to_pylist(), column.indices.to_numpy()

    def __getitem__(self, place: int) -> str:
        return str(self.words[self.places[place]])


class Records:
    """Paths on their way into record batches. Dictionaries only grow: an Arrow file takes additions to them, never replacements."""

    def __init__(self) -> None:
        self.index = -1
        self.columns: list[list[object]] = [[] for _ in SCHEMA]
        self.words: dict[str, dict[str, int]] = {"file": {}, "part": {}}

    def add(self, source: Source, sequences: list[Sequence]) -> None:
        self.index += 1
        file = self._place("file", source.file)
        for sequence in sequences:
            values = (self.index, file, source.row, self._place("part", sequence.part), sequence.tokens, sequence.weights)
            for column, value in zip(self.columns, values, strict=True):
                column.append(value)

    def batch(self) -> list[pa.RecordBatch]:
        """Everything added since the last call."""
        arrays = [self._array(kind, column) for column, kind in zip(self.columns, SCHEMA, strict=True)]
        self.columns = [[] for _ in SCHEMA]
        return [pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)]

    def _place(self, column: str, word: str) -> int:
        words = self.words[column]
        return words.setdefault(word, len(words))

    def _array(self, kind: pa.Field, column: list[object]) -> pa.Array:
        if pa.types.is_list(kind.type):
            ends = np.cumsum([0, *map(len, column)], dtype=np.int32)  # type: ignore[arg-type]
            values = np.concatenate(column) if column else np.zeros(0, kind.type.value_type.to_pandas_dtype())  # type: ignore[arg-type]
            return pa.ListArray.from_arrays(pa.array(ends), pa.array(values), type=kind.type)
        if kind.name not in self.words:
            return pa.array(column, type=kind.type)
        return pa.DictionaryArray.from_arrays(
            pa.array(column, type=kind.type.index_type), pa.array(list(self.words[kind.name]), pa.string())
        )


def _mapped(file: Path) -> pa.Table:
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_file(source).read_all()


def _rows_of(parts: list[pa.Table]) -> NDArray[np.int64]:
    """The number of each path's row; each part counts its rows from 0."""
    numbers, before = [], 0
    for part in parts:
        index = part["index"].to_numpy()
        numbers.append(index + before)
        before += int(index[-1]) + 1 if len(index) else 0
    return np.concatenate(numbers)


def checksum_of(file: Path) -> int:
    """CRC-32 of a file: finds damage, not malice."""
    checksum = 0
    with open(file, "rb") as source:
        while piece := source.read(1 << 20):
            checksum = zlib.crc32(piece, checksum)
    return checksum
