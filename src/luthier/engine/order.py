"""Which rows a step learns from: a pure function of seed and step, so that resuming needs no position on disk."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from luthier.core.spec import TrainSpec


class Order:
    """The rows of every step.

    Epochs follow one another without a seam: a step may hold the last rows of one epoch and the first of the next. Only the very last
    step may be smaller.

    Args:
        num_rows: training rows. train: with epochs, max_steps and rows_per_step derived (no "auto").
    """

    def __init__(self, num_rows: int, train: TrainSpec) -> None:
        assert train.rows_per_step != "auto" and train.epochs != "auto", "derive the Spec first"
        self.num_rows, self.train, self.per_step = num_rows, train, train.rows_per_step
        self.total = max(1, round(train.epochs * num_rows))
        self.steps = math.ceil(self.total / self.per_step)
        if train.max_steps != "auto":
            self.steps = min(self.steps, train.max_steps)
        self._latest = -1, np.empty(0, np.int64)

    def rows(self, step: int) -> list[int]:
        """Indices of the rows of `step` (0-based), in the order drawn."""
        first = step * self.per_step
        return [self._row(i) for i in range(first, min(first + self.per_step, self.total))]

    def _row(self, i: int) -> int:
        epoch, place = divmod(i, self.num_rows)
        return int(self._permutation(epoch)[place]) if self.train.shuffle else place

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        made, permutation = self._latest  # taken and set as one: another thread may plan
        if made != epoch:
            permutation = np.random.Generator(np.random.PCG64([self.train.seed, epoch])).permutation(self.num_rows)
            self._latest = epoch, permutation
        return permutation
