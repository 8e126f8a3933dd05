"""Rows for a head: what is asked stays, and the answer becomes a target beside the last state of the question.

from the table   q q q q A A .      A the answer, learned; . its end
laid             q q q q .          the state at the last q predicts; the end token behind it only gives that state its place in the list
of an encoder    q q q q            the state at the first q predicts, which sees them all
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.core.sequence import Row, Rows, Sequence
from luthier.data.render import Renderer

TARGET = "target"

Target = Callable[[str], tuple[NDArray[Any], float]]
"""From an answer as text to what the head should say (``[...]``), and how much that counts."""


class Answered:
    """Rows as a head reads them (implements `core.sequence.Rows`).

    Args:
        rows: conversations with their last answer learned. target: see `Target`; raises ValueError where the answer is none.
    """

    def __init__(self, rows: Rows, renderer: Renderer, target: Target) -> None:
        self.rows, self.renderer, self.target = rows, renderer, target
        self._known: dict[bytes, tuple[NDArray[Any], float]] = {}  # few answers, many rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Row:
        row = self.rows[index]
        sequence = row.sequences[-1]
        first = int(np.flatnonzero(sequence.weights)[0])
        value, weight = self._target(row, sequence)
        whole = self.renderer.plain is not None
        tokens = sequence.tokens[:first] if whole else np.append(sequence.tokens[:first], np.int32(self.renderer.end_token))
        weights = np.zeros(len(tokens), np.float32)
        weights[1 if whole else -1] = weight * sequence.weights[first]
        return Row(row.source, [Sequence(tokens, weights, beside={TARGET: value[None]}, apart=whole, media=sequence.media)])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def _target(self, row: Row, sequence: Sequence) -> tuple[NDArray[Any], float]:
        key = sequence.tokens[sequence.weights > 0].tobytes()
        if key not in self._known:
            text = answer(sequence, self.renderer)
            try:
                self._known[key] = self.target(text)
            except ValueError as error:
                raise DataError(
                    f"The answer {text[:60]!r} is nothing the head could say: {error}.",
                    where=str(row.source),
                    remedy="Correct the row, or say what is predicted with objective.kind.",
                    code="no_target",
                ) from error
        return self._known[key]


class Ended:
    """Rows of which only the state that ends each answer is read, that of its last word (implements `core.sequence.Rows`)."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Row:
        row = self.rows[index]
        last = {sequence.part: sequence for sequence in row.sequences}  # where a template rewrites turns, the path that holds them all
        return Row(row.source, [_ended(sequence) for sequence in last.values()])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


def _ended(sequence: Sequence) -> Sequence:
    weights = np.zeros(len(sequence.tokens), np.float32)
    weights[-1] = 1.0
    return Sequence(sequence.tokens, weights, sequence.part)


def answer(sequence: Sequence, renderer: Renderer) -> str:
    """The learned words of a path, without what ends them."""
    learned = sequence.tokens[sequence.weights > 0].tolist()
    return renderer.decode([token for token in learned if token not in renderer.end_tokens]).strip()


def answers(rows: Rows, renderer: Renderer) -> Iterator[str]:
    """The last answer of every row."""
    known: dict[bytes, str] = {}
    for row in rows:
        sequence = row.sequences[-1]
        key = sequence.tokens[sequence.weights > 0].tobytes()
        if key not in known:
            known[key] = answer(sequence, renderer)
        yield known[key]
