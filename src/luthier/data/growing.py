"""A table that grows while a file is read, a chunk at a time, here or in another process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


@dataclass(slots=True)
class Growing:
    """Chunks of one schema.

    Attributes:
        rows: how many there are so far.
    """

    schema: pa.Schema
    chunks: list[pa.Table] = field(default_factory=list)
    rows: int = 0

    def add(self, columns: list[Any]) -> None:
        """Some more rows, column by column."""
        arrays = [pa.array(column, kind.type) for column, kind in zip(columns, self.schema, strict=True)]
        self.append(pa.table(arrays, schema=self.schema))

    def told(self) -> bytes:
        """All rows, for another process."""
        sink, table = pa.BufferOutputStream(), self.table()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    def absorb(self, told: bytes) -> pa.Table:
        """The rows of a later part of the data."""
        self.append(pa.ipc.open_stream(told).read_all())
        return self.chunks[-1]

    def table(self) -> pa.Table:
        """All rows, each word of a dictionary once."""
        return pa.concat_tables([self.schema.empty_table(), *self.chunks]).unify_dictionaries()

    def append(self, chunk: pa.Table) -> None:
        """Some more rows."""
        self.chunks.append(chunk)
        self.rows += chunk.num_rows
