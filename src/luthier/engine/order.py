"""Which rows a step learns from: a pure function of seed and step, so that resuming needs no position on disk."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from luthier.core.events import Note
from luthier.core.sequence import Rows
from luthier.core.spec import TrainSpec
from luthier.engine.families import deal, families
from luthier.engine.pack import packs

SAMPLED_STEPS = 16
"""Steps looked at to tell what an order is like."""


class Order:
    """The rows of every step.

    Epochs follow one another without a seam: a step may hold the last rows of one epoch and the first of the next. Only the very last
    step may be smaller.

    With `group_prefixes`, rows that begin alike stand together in half a step at most: a step meets at least two places of the tree.

    Args:
        rows: training rows. train: with epochs, max_steps and rows_per_step derived (no "auto").
    """

    def __init__(self, rows: Rows, train: TrainSpec) -> None:
        assert train.rows_per_step != "auto" and train.epochs != "auto", "derive the Spec first"
        self.num_rows, self.train, self.per_step = len(rows), train, train.rows_per_step
        self.families = families(rows) if train.group_prefixes else []
        self.total = max(1, round(train.epochs * len(rows)))
        self.steps = math.ceil(self.total / self.per_step)
        if train.max_steps != "auto":
            self.steps = min(self.steps, train.max_steps)
        self._latest = -1, np.empty(0, np.int64)

    def rows(self, step: int) -> list[int]:
        """Indices of the rows of `step` (0-based), in the order drawn."""
        first = step * self.per_step
        return [self._row(i) for i in range(first, min(first + self.per_step, self.total))]

    def ends_pass(self, step: int) -> bool:
        """Whether the rows were gone through once more when `step` steps are done; the end of the run counts."""
        seen, before = (min(n * self.per_step, self.total) // self.num_rows for n in (step, step - 1))
        return seen > before or step == self.steps

    def _row(self, i: int) -> int:
        epoch, place = divmod(i, self.num_rows)
        return int(self._permutation(epoch)[place]) if self.train.shuffle else place

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        made, permutation = self._latest  # taken and set as one: another thread may plan
        if made != epoch:
            dice = np.random.Generator(np.random.PCG64([self.train.seed, epoch]))
            if self.families:
                slot = max(1, self.per_step // 2)
                permutation = deal(self.families, slot=slot, offset=-epoch * self.num_rows % slot, dice=dice)
            else:
                permutation = dice.permutation(self.num_rows)
            self._latest = epoch, permutation
        return permutation


def compared(rows: Rows, grouped: Order, budget: int) -> Note:
    """What grouping by beginnings saves, and what it does to the shuffle, beside the plain order of the same seed."""
    plain = Order(rows, grouped.train.model_copy(update={"group_prefixes": False}))
    chosen = np.linspace(0, grouped.steps - 1, min(SAMPLED_STEPS, grouped.steps)).astype(int).tolist()
    laid, met = {}, {}
    for name, order in (("plain", plain), ("grouped", grouped)):
        drawn = [order.rows(step) for step in chosen]
        laid[name] = sum(len(pack.tokens_T) for step in drawn for pack in packs([rows[i] for i in step], budget))
        met[name] = sum(len(np.unique(grouped.families[0][step])) for step in drawn) / len(drawn)
    saved = 1 - laid["grouped"] / laid["plain"]
    return Note(
        f"group_prefixes: {saved:.0%} fewer tokens to compute than in the plain order; the {grouped.per_step} rows of a step begin in "
        f"{met['grouped']:.1f} different ways instead of {met['plain']:.1f}, so its gradient is less mixed.",
        data={"saved": saved, "beginnings_in_a_step": met["grouped"], "beginnings_in_a_plain_step": met["plain"]},
    )
