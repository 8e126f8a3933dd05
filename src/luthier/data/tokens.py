"""Rows of tokens on disk, read through memory mapping: data larger than memory costs no memory.

A table is a folder in the cache: ``tokens.arrow`` (one record per path), ``ledger.parquet`` and ``meta.json`` with their checksums. It is
named by the hash of everything that decides its content, appears only when complete, and is rebuilt when it is damaged.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from luthier.core.errors import DataError, StorageError
from luthier.core.example import Example, Source
from luthier.core.files import fingerprint, new_folder, write_json
from luthier.core.sequence import Row, Sequence
from luthier.core.spec import DataSpec
from luthier.data import ledger as ledgers
from luthier.data.ledger import Ledger, Totals
from luthier.data.refusals import Refusals, teaches_nothing
from luthier.data.render import Renderer
from luthier.data.too_long import Fitted, fit
from luthier.data.turns import Strand

BATCH = 512
"""Rows rendered and encoded together, and paths per record batch: enough to keep the batch encoder busy, some 2 MB."""
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
CODE = ("tokenizer", "words", "folder", "template", "outline", "shape", "turns", "paths", "render", "too_long", "tokens", "ledger")
"""Files that decide token ids: a change in any of them makes older tables stale."""


class TokenTable:
    """Rows of token paths (implements `core.sequence.Rows`): arrays are views into the mapped file, not copies.

    Attributes:
        ledger: what each row teaches, dropped rows included. totals: its sums.
        fingerprint: hash of everything that decided the content.
    """

    def __init__(self, table: pa.Table, ledger: pa.Table, *, fingerprint: str) -> None:
        self.table, self.ledger, self.fingerprint = table, ledger, fingerprint
        self._batches = [_Batch(batch) for batch in table.to_batches()]
        self._ends = np.cumsum([len(batch.rows) for batch in self._batches]).tolist()
        index = table["index"].to_numpy()
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

    @classmethod
    def from_rows(cls, rows: Iterable[Row]) -> TokenTable:
        """A table in memory from ready-made ids.

        Raises:
            DataError: a row teaches nothing.
        """
        ledger, records, digest = Ledger(), _Records(), hashlib.sha256()
        for row in rows:
            if not ledger.add(row.source, row.sequences):
                raise teaches_nothing(row.source)
            records.add(row.source, row.sequences)
            for sequence in row.sequences:
                digest.update(sequence.tokens.tobytes() + sequence.weights.tobytes() + sequence.part.encode())
        return cls(pa.Table.from_batches(records.batch()), ledger.table(), fingerprint=digest.hexdigest())

    @classmethod
    def open(cls, folder: Path) -> TokenTable:
        """Map a table that `tokenise` wrote.

        Raises:
            StorageError: it is not there, or its checksums do not hold.
        """
        try:
            meta = json.loads((folder / "meta.json").read_text())
            for name, checksum in meta["checksums"].items():
                if _checksum(folder / name) != checksum:
                    raise ValueError(f"{name} is not what was written")
            with pa.memory_map(str(folder / "tokens.arrow")) as source:
                table = pa.ipc.open_file(source).read_all()
            return cls(table, ledgers.read(folder / "ledger.parquet"), fingerprint=folder.name)
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


class _Records:
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
        if kind.name not in self.words:
            return pa.array(column, type=kind.type)
        return pa.DictionaryArray.from_arrays(
            pa.array(column, type=kind.type.index_type), pa.array(list(self.words[kind.name]), pa.string())
        )


def tokenise(
    examples: Iterable[Example],
    *,
    renderer: Renderer,
    data: DataSpec,
    context: int,
    cache: Path,
    key: str,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenTable:
    """Render, encode and keep rows; the same question again is answered from the cache without reading `examples`.

    Args:
        context: longest path in tokens. data: ``learn`` and ``too_long`` are honoured here.
        cache: folder for tables; any of them can be deleted at any time.
        key: hash of the data behind `examples` (their file's content and which rows of it).
        on_progress: hears rows and tokens done, every `BATCH` rows.

    Raises:
        DataError: rows that are too long, refused by the template, not fully rendered, or teach nothing; all of them are counted
            and the first 20 named. Nothing is kept then.
        StorageError: the cache cannot be written.
    """
    name = fingerprint([key, renderer.fingerprint, code_version(), data.learn, data.too_long, context])
    folder = cache / name[:32]
    if folder.is_dir():
        try:
            return TokenTable.open(folder)
        except StorageError:
            pass  # damaged: made again, and replaced as a whole
    with new_folder(folder) as part:
        ledger = _write(part / "tokens.arrow", examples, renderer, data, context, on_progress)
        ledgers.save(ledger.table(), part / "ledger.parquet")
        write_json(part / "meta.json", {"checksums": {file: _checksum(part / file) for file in ("tokens.arrow", "ledger.parquet")}})
    return TokenTable.open(folder)


def _write(
    file: Path,
    examples: Iterable[Example],
    renderer: Renderer,
    data: DataSpec,
    context: int,
    on_progress: Callable[[int, int], None] | None,
) -> Ledger:
    ledger, errors, records, tokens = Ledger(), Refusals(), _Records(), 0
    rows = iter(examples)
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA, options=options) as writer:
        while batch := list(islice(rows, BATCH)):
            for example, fitted in _fitted(batch, renderer, data, context, errors):
                learned = ledger.add(example.source, fitted.sequences, cut=fitted.cut, reason=fitted.reason)
                if fitted.sequences and not learned:
                    errors.add(teaches_nothing(example.source))
                elif fitted.sequences:
                    records.add(example.source, fitted.sequences)
                    tokens += sum(len(sequence.tokens) for sequence in fitted.sequences)
            for record in records.batch():
                writer.write_batch(record)
            if on_progress:
                on_progress(ledger.rows, tokens)
    errors.raise_if_any()
    return ledger


def _fitted(batch: list[Example], renderer: Renderer, data: DataSpec, context: int, errors: Refusals) -> Iterator[tuple[Example, Fitted]]:
    """Rows of a batch that render, their texts encoded together."""
    rows: list[tuple[Example, list[Strand] | DataError]] = []
    for example in batch:
        try:
            rows.append((example, renderer.strands(example, learn=data.learn)))
        except DataError as error:
            rows.append((example, error))
    renderer.warm(strand for _, strands in rows if isinstance(strands, list) for strand in strands)
    for example, strands in rows:
        try:
            if isinstance(strands, DataError):
                raise strands
            sequences = [sequence for strand in strands for sequence in renderer.lay(strand)]
            yield example, fit(renderer, example, sequences, learn=data.learn, context=context, policy=data.too_long)
        except DataError as error:
            errors.add(error)


def _checksum(file: Path) -> int:
    checksum = 0
    with open(file, "rb") as source:
        while piece := source.read(1 << 20):
            checksum = zlib.crc32(piece, checksum)
    return checksum


@lru_cache(maxsize=1)
def code_version() -> str:
    """Hash of the source files that decide token ids."""
    digest = hashlib.sha256()
    for name in CODE:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()
