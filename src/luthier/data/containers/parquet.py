"""Parquet, read in batches of rows; the one door to pyarrow's reader."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from luthier.core.errors import DataError
from luthier.data.bytes import Stream
from luthier.data.head import Fit, Head
from luthier.data.json_rows import Flaw, Record

_BATCH_ROWS = 512


def fits(head: Head) -> Fit | None:
    """A file that begins with Parquet's four magic letters."""
    return Fit(0.99, "it begins as Parquet does") if head.start[:4] == b"PAR1" else None


def records(stream: Stream, details: dict[str, Any]) -> Iterator[Record | Flaw]:
    """Each row as a Record; rows are record numbers. Fields without a value are left out, as in JSON.

    Parquet is read from its end, so the stream is laid into a temporary file first when it is packed.
    """
    with tempfile.TemporaryFile() as unpacked:
        source: IO[bytes] = stream.seekable_file() or _unpack(stream, unpacked)
        try:
            file = pq.ParquetFile(source)
            row = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for fields in batch.to_pylist():
                    row += 1
                    yield Record(row, _present(fields))
                stream.report(row / max(1, file.metadata.num_rows))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"The Parquet file is damaged: {error}.", remedy="Write or copy it again.", code="damaged_parquet") from error


def _unpack(stream: Stream, sink: IO[bytes]) -> IO[bytes]:
    shutil.copyfileobj(stream, sink, 1 << 20)
    sink.seek(0)
    return sink


def _present(value: Any) -> Any:
    """`value` without keys that hold nothing: Parquet gives every struct of a list all keys of all of them."""
    if type(value) is dict:
        return {key: _present(inner) for key, inner in value.items() if inner is not None}
    if type(value) is list:
        return [_present(inner) for inner in value]
    return value
