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
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from luthier.core.errors import StorageError
from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence
from luthier.data import ledger as ledgers
from luthier.data.columns import Columns, Records
from luthier.data.ledger import Ledger, Totals
from luthier.data.refusals import teaches_nothing


class TokenTable:
    """Rows of token paths (implements `core.sequence.Rows`): tokens are views into the mapped file, not copies.

    Attributes:
        ledger: what each row teaches, dropped rows included. totals: its sums.
        name: hash of everything that decided the content, and the folder in the cache. chosen: numbers of the chosen rows, or None.
    """

    def __init__(self, parts: list[pa.Table], ledger: pa.Table, *, name: str, chosen: NDArray[np.int64] | None = None) -> None:
        self.name, self.chosen, self._parts, self._ledger = name, chosen, parts, ledger
        self.table = pa.concat_tables(parts)
        self.ledger = ledger if chosen is None else ledger.filter(pc.is_in(ledger["row"], pa.array(chosen)))
        self._batches = [_Batch(batch) for batch in self.table.to_batches()]
        self._ends = np.cumsum([len(batch.rows) for batch in self._batches]).tolist()
        index = _rows_of(parts)
        first = np.flatnonzero(np.diff(index, prepend=-1))  # place of each row's first path
        stop = np.append(first, len(index))[1:]
        if chosen is not None:
            kept = np.isin(self.table["row"].to_numpy()[first], chosen)
            first, stop = first[kept], stop[kept]
        self._first, self._stop = first, stop

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decided the content, the choice of rows included."""
        return self.name if self.chosen is None else hashlib.sha256(self.name.encode() + self.chosen.tobytes()).hexdigest()[:32]

    def only(self, rows: Collection[int]) -> TokenTable:
        """The rows of these numbers, of a table that was made of one file."""
        return TokenTable(self._parts, self._ledger, name=self.name, chosen=np.array(sorted(rows), np.int64))

    @property
    def totals(self) -> Totals:
        """Sums of the ledger."""
        return ledgers.totals(self.ledger)

    def __len__(self) -> int:
        return len(self._first)

    def __getitem__(self, index: int, /) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        places = range(int(self._first[index]), int(self._stop[index]))
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
        ledger, digest, given = Ledger(), hashlib.sha256(), list(rows)
        columns = Columns.of([(owner, sequence) for owner, row in enumerate(given) for sequence in row.sequences])
        sources, (total, learned) = [row.source for row in given], columns.sums(len(given))
        for place in np.flatnonzero(learned == 0).tolist():
            raise teaches_nothing(sources[place])
        ledger.enter(sources, total, learned)
        for row in given:
            for sequence in row.sequences:
                digest.update(sequence.tokens.tobytes() + sequence.weights.tobytes() + "\0".join([sequence.part, *sequence.media]).encode())
        return cls([pa.Table.from_batches([Records().batch(sources, columns)])], ledger.table(), name=digest.hexdigest()[:32])

    @classmethod
    def open(cls, folder: Path) -> TokenTable:
        """Map a table that `tokenise` wrote.

        Raises:
            StorageError: it is not there, or its checksums do not hold.
        """
        try:
            meta = json.loads((folder / "meta.json").read_text())
            found = checksums(folder, meta["checksums"])
            for name, checksum in meta["checksums"].items():
                if found[name] != checksum:
                    raise ValueError(f"{name} is not what was written")
            with contextlib.suppress(OSError):  # a cache that may only be read
                os.utime(folder / "meta.json")  # in use: see `tokenise.KEPT_DAYS`
            parts = [_mapped(folder / name) for name in sorted(meta["checksums"]) if name.endswith(".arrow")]
            return cls(parts, ledgers.read(folder / "ledger.parquet"), name=folder.name)
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
        runs = slice(batch.runs[place], batch.runs[place + 1])
        media = batch.media(place)
        weights = np.repeat(batch.weights[runs], batch.lengths[runs])
        return Sequence(batch.tokens[start:stop], weights, batch.parts[place], apart=bool(media), media=media)


class _Batch:
    """One record batch as numpy views."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        tokens, weights = batch.column("tokens"), batch.column("weights")
        self.offsets, self.runs = tokens.offsets.to_numpy(), weights.offsets.to_numpy()
        self.tokens, self.weights = tokens.values.to_numpy(), weights.values.to_numpy()
        self.lengths = batch.column("runs").values.to_numpy()
        self.rows = batch.column("row").to_numpy()
        self.parts, self.files = _Words(batch.column("part")), _Words(batch.column("file"))
        media = batch.column("media")
        self._media = media if media.null_count < len(media) else None

    def media(self, place: int) -> tuple[str, ...]:
        """Pictures of a path."""
        return tuple(self._media[place].as_py() or ()) if self._media is not None else ()


class _Words:
    """A dictionary column, one word at a time."""

    def __init__(self, column: pa.DictionaryArray) -> None:
        self.words, self.places = column.dictionary.to_pylist(), column.indices.to_numpy()

    def __getitem__(self, place: int) -> str:
        return str(self.words[self.places[place]])


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


def checksums(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """CRC-32 of files, several at a time: finds damage, not malice."""
    names = sorted(names)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return dict(zip(names, threads.map(lambda name: _checksum_of(folder / name), names), strict=True))


def _checksum_of(file: Path) -> int:
    checksum = 0
    with open(file, "rb") as source:
        while piece := source.read(1 << 20):
            checksum = zlib.crc32(piece, checksum)
    return checksum
