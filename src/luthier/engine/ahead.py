"""Planning ahead: while a step computes, a thread fetches the rows of the next one and lays out its forests.

A plan is a function of step and budget alone, so it does not matter who made it or when: a session that is moved to another step, or given
another budget, throws the prepared plan away and makes the one it needs. The thread lives for one plan: there is nothing to stop.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread

from luthier.core.sequence import Per, Row
from luthier.engine.pack import packs
from luthier.engine.tree import Pack


@dataclass(slots=True, frozen=True)
class Plan:
    """A step as it will be computed, and its sums over all forests.

    Attributes:
        rows: as drawn. packs: their forests; any order, any division among processes gives the same step.
        aside: forests that are only surveyed before the step (`objectives.Objective.aside`).
        weight: what the step's loss is divided by: learned weight, or rows. learned, tokens: learned and true tokens.
    """

    rows: list[Row]
    packs: list[Pack]
    weight: float
    learned: int
    tokens: int
    aside: list[Pack] = field(default_factory=list)


def planned(rows: list[Row], budget: int, *, parts: int = 1, per: Per = "weight", aside: str = "") -> Plan:
    """Lay out `rows` in forests of at most `budget` tokens, for as many processes as `parts` says.

    Args:
        aside: paths of this part lie in forests of their own.
    """
    surveyed = _only(rows, lambda part: part == aside) if aside else []
    rows = _only(rows, lambda part: part != aside) if aside else rows
    sequences = [sequence for row in rows for sequence in row.sequences]
    weight = sum(float(sequence.weights.sum(dtype="float64")) for sequence in sequences)
    return Plan(
        rows=rows,
        packs=packs(rows, budget, parts=parts),
        weight=float(len(rows)) if per == "row" and weight else weight,
        learned=sum(int((sequence.weights != 0).sum()) for sequence in sequences),
        tokens=sum(len(sequence.tokens) for sequence in sequences),
        aside=packs(surveyed, budget, parts=parts) if surveyed else [],
    )


def _only(rows: list[Row], wanted: Callable[[str], bool]) -> list[Row]:
    return [Row(row.source, [sequence for sequence in row.sequences if wanted(sequence.part)]) for row in rows]


class Ahead:
    """The plans of a session, one ahead.

    Args:
        make: the plan of (step, budget); called in a thread. steps: there is none from here on.

    Attributes:
        waited: seconds the caller of `take` spent without a plan. spent: seconds of planning, wherever it was done.
    """

    def __init__(self, make: Callable[[int, int], Plan], steps: int) -> None:
        self.make, self.steps = make, steps
        self.waited = self.spent = 0.0
        self._next: _Making | None = None

    def take(self, step: int, budget: int) -> Plan:
        """The plan of `step`; the one after it is begun. What went wrong while planning a step is raised when that step is taken."""
        start = time.perf_counter()
        making = self._next
        self.close()
        if making is None or making.asked != (step, budget):
            making = _Making(self.make, step, budget)
            making.run()
        self.waited += time.perf_counter() - start
        self.spent += making.seconds
        if making.error is not None:
            raise making.error
        if step + 1 < self.steps:
            self._next = _Making(self.make, step + 1, budget)
            self._next.start()
        assert making.plan is not None
        return making.plan

    def close(self) -> None:
        """Wait for the plan under way and forget it."""
        if self._next is not None:
            self._next.join()
        self._next = None


class _Making(Thread):
    """One plan while it is made: exactly one of `plan` and `error` is there in the end."""

    def __init__(self, make: Callable[[int, int], Plan], step: int, budget: int) -> None:
        super().__init__(name=f"plan of step {step + 1}")
        self.make, self.asked = make, (step, budget)
        self.plan: Plan | None = None
        self.error: BaseException | None = None
        self.seconds = 0.0

    def run(self) -> None:
        start = time.perf_counter()
        try:
            self.plan = self.make(*self.asked)
        except BaseException as error:  # raised where the step is taken
            self.error = error
        self.seconds = time.perf_counter() - start
