"""How likely a model finds the expected answers: loss, bits per byte, token accuracy. No generation: every answer is given and read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.core.sequence import Row, Rows, Sequence
from luthier.data.render import Renderer
from luthier.engine.score import Score, score
from luthier.models.model import Model

ROWS_AT_ONCE = 128


@dataclass
class Likelihood:
    """One number per held-out row, R rows.

    Attributes:
        nats_R: surprise at the learned tokens, weighted; weight_R: their weights' sum. Loss is ``sum(nats) / sum(weight)``.
        bits_R: unweighted surprise in bits; bytes_R: UTF-8 bytes of the learned text, end tokens not counted as text.
        hits_R: learned tokens that were the model's first choice; tokens_R: learned tokens.
        rejected_R: surprise at the answer not to be given, weighted. All else is about the one to be given.
        sides_R: how many of both the row has; 0 where nothing is compared or judged.
    """

    nats_R: NDArray[np.float64]
    weight_R: NDArray[np.float64]
    bits_R: NDArray[np.float64]
    bytes_R: NDArray[np.float64]
    hits_R: NDArray[np.float64]
    tokens_R: NDArray[np.float64]
    rejected_R: NDArray[np.float64]
    sides_R: NDArray[np.float64]

    @property
    def margin_R(self) -> NDArray[np.float64]:
        """How much likelier the answer to be given is than the one not to be given, in nats; one that is not there counts nothing."""
        return self.rejected_R - self.nats_R


def likelihood(model: Model, rows: Rows, *, on_progress: Callable[[int], None] | None = None) -> Likelihood:
    """Score every row of `rows`.

    Args:
        on_progress: called with the rows done.
    """
    found: list[tuple[float, ...]] = []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        chunk = [rows[i] for i in range(first, min(first + ROWS_AT_ONCE, len(rows)))]
        found.extend(_chunk(model, chunk))
        if on_progress:
            on_progress(len(found))
    return Likelihood(*np.array(found, np.float64).reshape(-1, 8).T)


def _chunk(model: Model, rows: list[Row]) -> Iterable[tuple[float, ...]]:
    scores = iter(score(model, [s for row in rows for s in row.sequences]))
    for row in rows:
        found = [(s, next(scores)) for s in row.sequences]
        given = [_numbers(s, scored, model.renderer) for s, scored in found if s.part != "rejected"]
        rejected = [-scored.total for s, scored in found if s.part == "rejected"]
        sides = len({s.part for s in row.sequences} & {"chosen", "rejected"})
        yield (*(np.sum(given, axis=0) if given else np.zeros(6)), sum(rejected), sides)


def _numbers(sequence: Sequence, scored: Score, renderer: Renderer) -> tuple[float, ...]:
    bits = -float(scored.logprobs_L.sum(dtype=np.float64)) / math.log(2)
    text = renderer.decode([t for t in sequence.tokens[sequence.weights > 0].tolist() if t not in renderer.end_tokens])
    weight = float(scored.weights_L.sum(dtype=np.float64))
    return -scored.total, weight, bits, float(len(text.encode())), float(scored.hits_L.sum()), float(len(scored.hits_L))
