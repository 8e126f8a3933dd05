"""What else is known of learned tokens, found once before the first step and laid beside every sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.core.sequence import Row, Rows, Sequence
from luthier.engine.budget import TOKENS_PER_PACK
from luthier.engine.forest import Forest
from luthier.engine.pack import packs
from luthier.engine.score import ROWS_AT_ONCE
from luthier.engine.tree import Pack
from luthier.models.model import Model


class Beside:
    """Rows with more known of them (implements `core.sequence.Rows`).

    Args:
        rows: any rows. known: by name, a value for every learned token of all rows in order; the first axis runs over them.
    """

    def __init__(self, rows: Rows, known: dict[str, NDArray[Any]]) -> None:
        self.rows, self.known = rows, known
        self._starts = starts(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Row:
        row, at = self.rows[index], int(self._starts[index % len(self)])
        sequences = []
        for sequence in row.sequences:
            end = at + int(np.count_nonzero(sequence.weights))
            sequences.append(_with(sequence, {name: values[at:end] for name, values in self.known.items()}))
            at = end
        return Row(row.source, sequences)

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


class Blank:
    """Rows with zeros in the place of what will be known: for planning, where only sizes count (implements `core.sequence.Rows`).

    Args:
        known: by name, the shape and number format of a value.
    """

    def __init__(self, rows: Rows, known: dict[str, tuple[tuple[int, ...], Any]]) -> None:
        self.rows, self.known = rows, known

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Row:
        row = self.rows[index]
        counts = [np.count_nonzero(sequence.weights) for sequence in row.sequences]
        blank = [{name: np.zeros((count, *shape), kind) for name, (shape, kind) in self.known.items()} for count in counts]
        return Row(row.source, [_with(sequence, known) for sequence, known in zip(row.sequences, blank, strict=True)])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


def _with(sequence: Sequence, known: dict[str, NDArray[Any]]) -> Sequence:
    return replace(sequence, beside={**sequence.beside, **known})


def starts(rows: Rows) -> NDArray[np.int64]:
    """Where each row's learned tokens begin, were those of all rows in one line; the last number is how many there are."""
    counts = [sum(np.count_nonzero(sequence.weights) for sequence in row.sequences) for row in rows]
    return np.cumsum([0, *counts])


Read = Callable[[Forest], dict[str, Tensor]]
"""What is looked at in a forest, ``[N, ...]`` each, by name."""

Make = Callable[[str, tuple[int, ...], Any], NDArray[Any]]
"""An array of zeros by name, shape and number format: in memory, or in a file."""


def reference(forest: Forest) -> dict[str, Tensor]:
    """Log-probability of every learned token."""
    return {"reference": forest.logprobs()}


@torch.no_grad()
def observed(
    model: Model,
    rows: Rows,
    wanted: Many[int],
    read: Read = reference,
    *,
    make: Make = lambda _, shape, kind: np.zeros(shape, kind),
    budget: int = TOKENS_PER_PACK,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, NDArray[Any]]:
    """What `model`, as it is, makes of every learned token of the `wanted` rows; 0 for all other rows.

    What comes out depends on the rows and the budget alone, to the last bit: a resumed run finds the same.

    Args:
        read: what is looked at: log-probabilities, unless said otherwise. make: where it is put.
        budget: tokens laid out at once. on_progress: hears the rows done.
    """
    model.network.eval()
    begins, found = starts(rows), dict[str, NDArray[Any]]()
    for first in range(0, len(wanted), ROWS_AT_ONCE):
        chosen = wanted[first : first + ROWS_AT_ONCE]
        several = [rows[i] for i in chosen]
        places = []  # of each sequence's first learned token
        for i, row in zip(chosen, several, strict=True):
            within = np.cumsum([0, *(np.count_nonzero(s.weights) for s in row.sequences)])
            places += (begins[i] + within[:-1]).tolist()
        for pack in packs(several, budget):
            for name, values in read(Forest(model, pack)).items():
                _put(found, name, values, pack, places, begins[-1], make)
        if on_progress:
            on_progress(first + len(chosen))
    return found


def _put(found: dict[str, NDArray[Any]], name: str, values: Tensor, pack: Pack, places: list[int], total: int, make: Make) -> None:
    """Spread what a forest says over the rows it belongs to."""
    values_N = (values.to(torch.int32) if values.dtype == torch.int64 else values.float()).cpu().numpy()
    if name not in found:
        found[name] = make(name, (total, *values_N.shape[1:]), values_N.dtype)
    for member in pack.members:
        mine = pack.sequences_N == member  # planting keeps each sequence's learned tokens in order
        found[name][places[member] : places[member] + mine.sum()] = values_N[mine]
