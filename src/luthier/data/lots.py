"""What decides on which side of the split a row falls: gathered while a file is read, and kept beside its tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from luthier.core.example import Example
from luthier.core.files import write_bytes
from luthier.data.content import HASH_BYTES
from luthier.data.duplicates import Digests
from luthier.data.first_line import LONGEST, MOST, are_labels, first_line
from luthier.data.growing import Growing

_WORD = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema([("row", pa.int64()), ("said", pa.binary(HASH_BYTES)), ("group", _WORD), ("label", _WORD), ("line", _WORD)])
"""One line per row that can be read: its number, the hash of what it says, its group, its label, and the first line of its answer while
those may be labels (see `data.first_line`)."""


class Lots:
    """The rows of a file, some 40 bytes each."""

    def __init__(self) -> None:
        self._rows, self._lines = Growing(SCHEMA), set[str]()

    def enter(self, rows: Sequence[Example], digests: Sequence[bytes]) -> None:
        """Some more rows, with the hashes of what they say."""
        said = pa.Array.from_buffers(SCHEMA.field("said").type, len(rows), [None, pa.py_buffer(b"".join(digests))])
        words = [row.group or None for row in rows], [row.label or None for row in rows], self._first_lines(rows)
        self._rows.add([[row.source.row for row in rows], said, *(pa.array(each, pa.string()).dictionary_encode() for each in words)])

    def told(self) -> bytes:
        """All rows, for another process."""
        return self._rows.told()

    def absorb(self, told: bytes) -> None:
        """The rows of a later part of the file."""
        self._rows.absorb(told)

    def save(self, file: Path) -> None:
        """Write them, whole or not at all."""
        sink = pa.BufferOutputStream()
        pq.write_table(self._rows.table(), sink, compression="zstd")
        write_bytes(file, sink.getvalue().to_pybytes())

    @classmethod
    def load(cls, file: Path) -> Lots:
        """Read what `save` wrote; raises what Arrow raises where the file is damaged."""
        lots = cls()
        lots._rows.append(pq.read_table(file, schema=SCHEMA))
        return lots

    def numbers(self) -> NDArray[np.int64]:
        """Row numbers, in the order of the file."""
        found: NDArray[np.int64] = self._column("row").to_numpy()
        return found

    def said(self) -> Digests:
        """The hashes of what the rows say."""
        found = Digests()
        for said in self._rows.table()["said"].chunks:
            start, stop = said.offset * HASH_BYTES, (said.offset + len(said)) * HASH_BYTES
            found.absorb(b"", memoryview(said.buffers()[1])[start:stop])
        found.absorb(self.numbers().tobytes(), b"")
        return found

    def deciding(self) -> list[bytes]:
        """For each row the bytes that decide its side: its group's, or the hash of what it says."""
        groups, said = self._column("group").to_pylist(), self._column("said").to_pylist()
        return [hash if group is None else f"group\x1f{group}".encode() for group, hash in zip(groups, said, strict=True)]

    @property
    def grouped(self) -> bool:
        """Whether any row has a group."""
        return int(self._column("group").null_count) < self._rows.rows

    def counts(self) -> Counter[str]:
        """Rows per label, of the rows that have one."""
        found = self._column("label").drop_null().value_counts()
        return Counter(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))

    def labels(self) -> NDArray[np.int64] | None:
        """For each row its label, as a number: of the label column, else of the first lines; None where there are fewer than two labels."""
        column = self._column("label")
        if column.null_count == len(column):
            column = self._column("line")
            if column.null_count or not are_labels(column.dictionary.to_pylist(), rows=len(column)):
                return None
        elif len(column.dictionary) < 2:
            return None
        found: NDArray[np.int64] = pc.fill_null(column.indices, -1).to_numpy().astype(np.int64)
        return found

    def _column(self, name: str) -> pa.Array:
        return self._rows.table()[name].combine_chunks()

    def _first_lines(self, rows: Sequence[Example]) -> list[str | None]:
        """Of the last answers; none any more once they cannot be labels, so that a large file's answers are not remembered."""
        if len(self._lines) <= MOST:
            lines = [_first_line(row) for row in rows]
            self._lines.update(lines)
            if len(self._lines) <= MOST and all(len(line) <= LONGEST for line in self._lines):
                return list(lines)
            self._lines.update(map(str, range(MOST + 1)))
        return [None] * len(rows)


def _first_line(example: Example) -> str:
    answers = [message.content for message in example.messages if message.role == "assistant"]
    return first_line(answers[-1]) if answers else ""
