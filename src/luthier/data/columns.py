"""Token paths of many rows in flat arrays, and as the columns of a token table."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from luthier.core.example import Source
from luthier.core.sequence import Sequence
from luthier.data.runs import spread

SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("file", pa.dictionary(pa.int32(), pa.string())),
        ("row", pa.int64()),
        ("part", pa.dictionary(pa.int8(), pa.string())),
        ("tokens", pa.list_(pa.int32())),
        ("weights", pa.list_(pa.float32())),
        ("runs", pa.list_(pa.int32())),
        ("media", pa.list_(pa.string())),
    ]
)
"""One record per path. Tokens of one weight stand together: ``weights`` has one number for each such run, ``runs`` its length, which halves
the table."""


@dataclass(slots=True)
class Columns:
    """Token paths of a batch of rows, one behind the other.

    Attributes:
        tokens, weights: int32 and float32, of all paths. lengths: int64, tokens of each path.
        owners: int64, the place of each path's row in the batch, ascending. sides: each path's part (see `Sequence.part`).
        media: each path's pictures (see `Sequence.media`); empty where no path has any.
    """

    tokens: NDArray[np.int32]
    weights: NDArray[np.float32]
    lengths: NDArray[np.int64]
    owners: NDArray[np.int64]
    sides: list[str]
    media: list[tuple[str, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, paths: list[tuple[int, Sequence]]) -> Columns:
        """Paths given one by one, each with the place of its row."""
        owners, sequences = [owner for owner, _ in paths], [sequence for _, sequence in paths]
        tokens = [np.zeros(0, np.int32), *(sequence.tokens for sequence in sequences)]
        weights = [np.zeros(0, np.float32), *(sequence.weights for sequence in sequences)]
        lengths = np.array([len(sequence.tokens) for sequence in sequences], np.int64)
        media = [sequence.media for sequence in sequences] if any(sequence.media for sequence in sequences) else []
        sides = [sequence.part for sequence in sequences]
        return cls(np.concatenate(tokens), np.concatenate(weights), lengths, np.array(owners, np.int64), sides, media)

    def picked(self, paths: NDArray[np.int64]) -> Columns:
        """Some paths, in the order asked for."""
        places = spread((np.cumsum(self.lengths) - self.lengths)[paths], self.lengths[paths])
        sides = [self.sides[path] for path in paths.tolist()]
        media = [self.media[path] for path in paths.tolist()] if self.media else []
        return Columns(self.tokens[places], self.weights[places], self.lengths[paths], self.owners[paths], sides, media)

    def without(self, owners: Collection[int]) -> Columns:
        """The paths of all other rows."""
        return self.picked(np.flatnonzero(~np.isin(self.owners, list(owners)))) if owners else self

    def merged(self, other: Columns) -> Columns:
        """The paths of both, in the order of their rows."""
        if not len(other.owners):
            return self
        both = [(each.tokens, each.weights, each.lengths, each.owners) for each in (self, other)]
        tokens, weights, lengths, owners = (np.concatenate(pair) for pair in zip(*both, strict=True))
        media = [path for each in (self, other) for path in each.media or [()] * len(each.sides)] if self.media or other.media else []
        return Columns(tokens, weights, lengths, owners, self.sides + other.sides, media).picked(np.argsort(owners, kind="stable"))

    def sums(self, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens, and learned tokens, of each of the batch's `rows`."""
        learned = np.append(0, np.cumsum(self.weights > 0))
        ends = np.cumsum(self.lengths)
        of_paths = self.lengths, learned[ends] - learned[ends - self.lengths]
        total, taught = (np.bincount(self.owners, weights=sums, minlength=rows).astype(np.int64) for sums in of_paths)
        return total, taught

    def equal(self, sequences: list[Sequence]) -> bool:
        """Whether these are the paths of one row."""
        other = Columns.of([(0, sequence) for sequence in sequences])
        arrays = "tokens", "weights", "lengths"
        return (self.sides, self.media) == (other.sides, other.media) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in arrays
        )


class Records:
    """Paths on their way into record batches. Dictionaries only grow: an Arrow file takes additions to them, never replacements."""

    def __init__(self) -> None:
        self._rows = 0
        self._words: dict[str, dict[str, int]] = {"file": {}, "part": {}}

    def batch(self, sources: list[Source], columns: Columns) -> pa.RecordBatch:
        """The paths of rows from these sources."""
        fresh = np.diff(columns.owners, prepend=-1) > 0
        owners = columns.owners.tolist()
        values: dict[str, pa.Array] = {
            "index": pa.array(self._rows + np.cumsum(fresh) - 1),
            "file": self._places("file", [sources[owner].file for owner in owners]),
            "row": pa.array([sources[owner].row for owner in owners], pa.int64()),
            "part": self._places("part", columns.sides),
        }
        self._rows += int(fresh.sum())
        ends = np.cumsum(columns.lengths)
        turns = np.diff(columns.weights, prepend=-1.0) != 0
        turns[(ends - columns.lengths)[columns.lengths > 0]] = True
        starts = np.flatnonzero(turns)
        runs = np.searchsorted(starts, ends)
        values["tokens"] = _lists(ends, columns.tokens)
        values["weights"] = _lists(runs, columns.weights[starts])
        values["media"] = _media(columns)
        values["runs"] = _lists(runs, np.diff(starts, append=len(turns)).astype(np.int32))
        return pa.RecordBatch.from_arrays([values[kind.name] for kind in SCHEMA], schema=SCHEMA)

    def _places(self, column: str, texts: list[str]) -> pa.DictionaryArray:
        words = self._words[column]
        places = [words.setdefault(text, len(words)) for text in texts]
        return pa.DictionaryArray.from_arrays(pa.array(places, SCHEMA.field(column).type.index_type), pa.array(list(words), pa.string()))


def _media(columns: Columns) -> pa.Array:
    kind = SCHEMA.field("media").type
    return pa.array(columns.media, kind) if columns.media else pa.nulls(len(columns.sides), kind)


def _lists(ends: NDArray[np.int64], flat: NDArray[np.generic]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), pa.array(flat))
