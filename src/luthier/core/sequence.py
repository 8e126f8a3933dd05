"""What the data floor hands to the engine: token ids, and how much each of them is learned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from luthier.core.example import Source

Per = Literal["weight", "row"]
"""What the loss of a step is a mean over: learned weight, or rows."""


@dataclass(slots=True)
class Sequence:
    """One path from the first token to the last.

    Attributes:
        tokens: int32 ``[T]`` token ids.
        weights: float32 ``[T]``; ``weights[t]`` is how much predicting ``tokens[t]`` from what precedes it counts. 0 = read only.
            ``weights[0]`` is 0, as nothing precedes it; where rows are read whole, 1 reads the last token's state, which nothing follows.
        part: what this path is within its row: empty, or ``chosen`` / ``rejected`` for a preference pair.
        beside: what else is known of its learned tokens, by name: arrays whose first axis runs over them, in order. A reference's
            log-probabilities, a class.
        apart: it shares no beginning with others: what its tokens mean depends on more than what precedes them.
        media: pictures among its tokens, in order (`core.example.Medium` as text); such a path is always `apart`.
    """

    tokens: NDArray[np.int32]
    weights: NDArray[np.float32]
    part: str = ""
    beside: dict[str, NDArray[Any]] = field(default_factory=dict)
    apart: bool = False
    media: tuple[str, ...] = ()


class Pictured(list[int]):
    """Token ids of a prompt, and the pictures among them in order."""

    def __init__(self, tokens: Iterable[int], media: tuple[str, ...]) -> None:
        super().__init__(tokens)
        self.media = media


def answered(prompt: list[int], answer: list[int]) -> Sequence:
    """A prompt and what is said after it: every token of the answer counts. What is seen or heard in the prompt goes along."""
    weights = np.zeros(len(prompt) + len(answer), np.float32)
    weights[len(prompt) :] = 1.0
    media = prompt.media if isinstance(prompt, Pictured) else ()
    return Sequence(np.array([*prompt, *answer], np.int32), weights, apart=bool(media), media=media)


@dataclass(slots=True)
class Row:
    """One example as token paths. Several paths where the chat template rewrites earlier turns (they fork), or for a pair."""

    source: Source
    sequences: list[Sequence]


class Rows(Protocol):
    """Anything that can be indexed for rows: a memory-mapped table or a plain list."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Row: ...
    def __iter__(self) -> Iterator[Row]: ...
