"""Rows for a head: what is asked stays, and the answer becomes a target beside the last state of the question.

from the table   q q q q A A .      A the answer, learned; . its end
laid             q q q q .          the state at the last q predicts; the end token behind it only gives that state its place in the list
of an encoder    q q q q            the state at the first q predicts, which sees them all
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.core.example import Source
from luthier.core.sequence import Pictured, Row, Rows, Sequence
from luthier.data import tagging
from luthier.data.render import Renderer
from luthier.data.said import Answer

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
        value, weight = self._target(row.source, sequence)
        question = asked(Pictured(sequence.tokens[:first].tolist(), sequence.media), self.renderer)
        question.weights *= weight * sequence.weights[first]
        question.beside[TARGET] = value[None]
        return Row(row.source, [question])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def _target(self, source: Source, sequence: Sequence) -> tuple[NDArray[Any], float]:
        key = sequence.tokens[sequence.weights > 0].tobytes()
        if key not in self._known:
            self._known[key] = _made(self.target, answer(sequence, self.renderer), source)
        return self._known[key]


class Answers(Protocol):
    """What rows answer, in the words of their owner (``data/said.py``)."""

    def of(self, source: Source) -> Answer: ...


class Tagged:
    """Rows with a tag for every word (implements `core.sequence.Rows`): the words alone, a tag at the state of each word's last token.

    Args:
        rows: whose words and tags are laid. answers: where they are found. target: of one tag.
    """

    def __init__(self, rows: Rows, renderer: Renderer, answers: Answers, target: Target) -> None:
        self.rows, self.renderer, self.answers, self.target = rows, renderer, answers, target

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Row:
        source = self.rows[index].source
        said = self.answers.of(source)
        tags = said.text.split(" ")
        if len(tags) != len(said.words):
            raise ValueError(f"{len(said.words)} words and {len(tags)} tags")
        made = [_made(self.target, tag, source) for tag in tags]
        sequence = worded(said.words, self.renderer)
        sequence.weights[sequence.weights > 0] = [weight for _, weight in made]
        sequence.beside[TARGET] = np.stack([value for value, _ in made])
        return Row(source, [sequence])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))


def _made(target: Target, text: str, source: Source) -> tuple[NDArray[Any], float]:
    try:
        return target(text)
    except ValueError as error:
        raise DataError(
            f"The answer {text[:60]!r} is nothing the head could say: {error}.",
            where=str(source),
            remedy="Correct the row, or say what is predicted with objective.kind.",
            code="no_target",
        ) from error


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
    return replace(sequence, weights=weights)


def asked(prompt: list[int], renderer: Renderer) -> Sequence:
    """A question as a head reads it."""
    whole = renderer.plain is not None
    tokens = np.array(prompt if whole else [*prompt, renderer.end_token], np.int32)
    weights = np.zeros(len(tokens), np.float32)
    weights[1 if whole else -1] = 1.0
    media = prompt.media if isinstance(prompt, Pictured) else ()
    return Sequence(tokens, weights, apart=whole or bool(media), media=media)


def answer(sequence: Sequence, renderer: Renderer) -> str:
    """The learned words of a path, without what ends them."""
    learned = sequence.tokens[sequence.weights > 0].tolist()
    return renderer.decode([token for token in learned if token not in renderer.end_tokens]).strip()


def answers_of(rows: Rows, renderer: Renderer) -> Iterator[str]:
    """The last answer of every row."""
    known: dict[bytes, str] = {}
    for row in rows:
        sequence = row.sequences[-1]
        key = sequence.tokens[sequence.weights > 0].tobytes()
        if key not in known:
            known[key] = answer(sequence, renderer)
        yield known[key]


def worded(words: Many[str], renderer: Renderer) -> Sequence:
    """Words as a head reads them that says something of each: its state is that of the word's last token."""
    tokens, places = tagging.words(renderer, words)
    weights = np.zeros(len(tokens), np.float32)
    weights[np.array(places) + 1] = 1.0  # the token behind the place gives its state a place in the list
    return Sequence(np.array(tokens, np.int32), weights, apart=renderer.plain is not None)
