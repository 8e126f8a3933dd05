"""The token files of `prepare.py` as rows the engine reads, and plain text as the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence


class TokenRows:
    """Rows of plain text over two memory-mapped files: every token but the first is learned.

    Args:
        folder: where `prepare.py` wrote; name: ``tokens`` or ``heldout``.
        limit: how many rows, from the beginning; 0 is all.
        shortest: shorter rows are left out (in training: they cost a row and teach next to nothing).
    """

    def __init__(self, folder: Path, name: str, *, limit: int = 0, shortest: int = 2) -> None:
        self.file = folder / f"{name}.npy"
        self.tokens = np.load(self.file, mmap_mode="r")
        marks = np.load(folder / f"{name}-cuts.npy")
        bounds = np.stack([marks[:-1], marks[1:]], axis=1)
        bounds = bounds[bounds[:, 1] - bounds[:, 0] >= shortest]
        self.bounds = bounds[:limit] if limit else bounds

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, index: int, /) -> Row:
        start, end = self.bounds[index]
        weights = np.ones(end - start, np.float32)
        weights[0] = 0.0
        return Row(Source(self.file.name, index + 1), [Sequence(self.tokens[start:end].astype(np.int32), weights)])

    def __iter__(self) -> Iterator[Row]:
        return (self[i] for i in range(len(self)))

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return int((self.bounds[:, 1] - self.bounds[:, 0]).sum())


def subset(rows: TokenRows, *, count: int, weight: float) -> list[Row]:
    """`count` rows spread evenly over `rows`, counting `weight` as much."""
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, count).astype(int)]
    for row in chosen:
        row.sequences[0].weights *= np.float32(weight)
    return chosen
