"""What a file is: how its rows lie in it, and what they mean. Told from the rows, with a confidence and a reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.core.registry import Folder
from luthier.data.bytes import opened
from luthier.data.head import Fit, Head, look
from luthier.data.json_rows import Record

CONTAINERS = Folder("luthier.data.containers", "container")
READERS = Folder("luthier.data.readers", "format")
_SAMPLE = 100


@dataclass(frozen=True)
class Recognition:
    """What a file was taken for.

    Attributes:
        format: name of the reader, e.g. ``openai_chat``. confidence: 0 to 1. reason: why, as one sentence.
        container: how the rows lie in the file: ``lines``, ``array``, ``table``, ``parquet`` or ``text``.
        details: what was found out about the container (delimiter, encoding, quotes, header, columns; ``gzip``).
    """

    format: str
    confidence: float
    reason: str
    container: str = "lines"
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain fields."""
        return {
            "format": self.format,
            "confidence": round(self.confidence, 3),
            "reason": self.reason,
            "container": self.container,
            **self.details,
        }


def recognise(path: Path, *, format: str = "auto") -> Recognition:
    """Find out what `path` is.

    Args:
        format: name of a reader when the user said it; then only the container is looked for.

    Raises:
        DataError: nothing fits; the message names the fields that were seen. NotFound, StorageError: the file cannot be opened.
        SpecError: `format` is no reader.
    """
    path = Path(path)
    if format != "auto":
        READERS.load(format)
    head = look(path)
    name, fit = _container(head)
    details = {**fit.details, **({"gzip": True} if head.packed else {})}
    rows = _sample(path, name, details)
    if format != "auto":
        return Recognition(format, 1.0, f"You said so; {fit.reason}.", name, details)
    reader, confidence, reason = _reader(path, rows)
    return Recognition(reader, round(confidence * fit.confidence, 3), f"{_sentence(fit.reason)} {reason}", name, details)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."


def _container(head: Head) -> tuple[str, Fit]:
    _refuse_foreign(head)
    fits = {name: fit for name in CONTAINERS.names() if (fit := CONTAINERS.load(name).fits(head))}
    if not fits:
        raise DataError(
            "This is not a file of rows.", where=str(head.path), remedy="Use JSONL, JSON, CSV, TSV, Parquet or text.", code="unknown_format"
        )
    name = max(fits, key=lambda each: fits[each].confidence)
    return name, fits[name]


def _refuse_foreign(head: Head) -> None:
    """Two near misses that deserve their own words."""
    if head.start[:2] in (b"\xff\xfe", b"\xfe\xff") and head.suffix not in (".csv", ".tsv", ".tab"):
        raise DataError(
            "The file is UTF-16.", where=str(head.path), remedy="Save it as UTF-8: iconv -f UTF-16 -t UTF-8.", code="invalid_utf8"
        )
    if head.suffix == ".json" and head.start.lstrip()[:1] == b"{" and not head.start.split(b"\n")[0].rstrip().endswith(b"}"):
        raise DataError(
            "The file is one JSON object, not rows.",
            where=str(head.path),
            remedy="Write a JSON array of rows, or one row per line (JSONL).",
            code="unknown_format",
        )
    if head.start[:4] == b"PK\x03\x04":
        raise DataError(
            "This is a zip archive (or an Excel workbook).",
            where=str(head.path),
            remedy="Unpack it, or save as CSV.",
            code="unknown_format",
        )


def _sample(path: Path, container: str, details: dict[str, Any]) -> list[dict[str, Any]]:
    with opened(path) as stream:
        rows = islice(CONTAINERS.load(container).records(stream, details), 4 * _SAMPLE)
        return [record.fields for record in islice((row for row in rows if isinstance(row, Record)), _SAMPLE)]


def _reader(path: Path, rows: list[dict[str, Any]]) -> tuple[str, float, str]:
    if not rows:
        raise DataError(
            "No row at the beginning of the file can be read.", where=str(path), remedy="Look at its first lines.", code="unknown_format"
        )
    readers = {name: READERS.load(name) for name in READERS.names()}
    scores = {name: sum(reader.fits(row) for row in rows) / len(rows) for name, reader in readers.items()}
    best = max(scores, key=lambda name: scores[name])
    if scores[best] < 0.3:
        raise _nothing_fits(path, rows)
    fitting = sum(readers[best].fits(row) > 0 for row in rows)
    return best, scores[best], f"{fitting} of the first {len(rows)} rows have {readers[best].SHAPE}: {best}."


def _nothing_fits(path: Path, rows: list[dict[str, Any]]) -> DataError:
    seen = Counter(key for row in rows for key in row).most_common(8)
    known = "; ".join(f"{name}: {READERS.load(name).SHAPE}" for name in READERS.names())
    fields = ", ".join(key for key, _ in seen) or "none"
    return DataError(
        f"The rows have fields that no format has: {fields}.", where=str(path), remedy=f"Formats are {known}.", code="unknown_format"
    )
