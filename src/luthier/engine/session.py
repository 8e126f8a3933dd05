"""A session: everything one optimiser step needs, and the step itself."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from luthier.core.errors import ResultError
from luthier.core.events import Stepped
from luthier.core.sequence import Per, Row, Rows
from luthier.core.spec import TrainSpec
from luthier.engine.ahead import Ahead, Plan, planned
from luthier.engine.budget import WHOLE_STEP, usual
from luthier.engine.forest import Forest
from luthier.engine.optimiser import Optimiser
from luthier.engine.order import Order
from luthier.engine.schedule import share
from luthier.engine.survey import Surveys, nothing, survey
from luthier.engine.team import Alone, Command, Team
from luthier.engine.tree import Pack
from luthier.models.model import Model
from luthier.models.recompute import recompute
from luthier.models.regional import compile_blocks


class Objective(Protocol):
    """Which number falls. Lives in ``objectives/``; see its folder's contract."""

    @property
    def per(self) -> Per:
        """What the loss of a step is a mean over."""

    def loss(self, forest: Forest) -> Tensor: ...


class Method(Protocol):
    """Which weights move. Lives in ``methods/``; see its folder's contract."""

    def groups(self, model: Model) -> list[Any]: ...
    def state(self, model: Model) -> dict[str, Tensor]: ...
    def load_state(self, model: Model, state: dict[str, Tensor]) -> None: ...


class Rollouts(Protocol):
    """Whoever makes the rows of a step anew from its prompts, with the weights as they are (``jobs/rollouts.py``)."""

    def rows(self, step: int, chosen: list[int]) -> list[Row]:
        """The rows in the place of those of these numbers."""
        ...

    def look(self) -> float:
        """What held-out prompts say; lower is better."""
        ...


class Session:
    """One run of the loop in memory.

    Args:
        model: the base with `method` already attached.
        rows: what is learned. valid: held-out rows for `validate`; may be empty.
        train: derived numbers (no "auto" except tokens_per_pack and the intervals).

    Attributes:
        team: the processes that take each step together; alone until told otherwise.
        rollouts: makes rows anew at each step; None where rows are learned as they are.
    """

    def __init__(
        self, model: Model, method: Method, objective: Objective, *, rows: Rows, valid: Rows | None = None, train: TrainSpec
    ) -> None:
        self.model, self.method, self.objective = model, method, objective
        self.rows, self.valid, self.train = rows, valid, train
        self.order = Order(rows, train)
        self.steps = self.order.steps
        self.step = 0
        self.budget = usual(rows, self.order, model.device) if train.tokens_per_pack == "auto" else train.tokens_per_pack
        self.optimiser = Optimiser(method.groups(model), train)
        self.ahead = Ahead(self._plan, self.steps)
        recompute(model, train.recompute is True, offload=train.offload is True)
        compile_blocks(model, train.compile is True)
        self.team: Alone | Team = Alone()
        self.rollouts: Rollouts | None = None

    def advance(self) -> Stepped:
        """Do one optimiser step.

        Raises:
            ResultError: the loss or the gradient is not finite; the weights are those before the step.
        """
        start = time.perf_counter()
        self.team.say(Command.ADVANCE)
        plan = self._fresh(self.step) if self.rollouts else self.ahead.take(self.step, self.step_budget)
        self.model.network.train()
        rate = share(self.step, steps=self.steps, train=self.train)
        self.optimiser.begin(rate, clip=self.train.clip, progress=self.step / self.steps)
        loss, _ = self.gradient(plan)
        norm = self.optimiser.norm()
        if not math.isfinite(loss) or not math.isfinite(norm.item()):
            self.optimiser.forget()
            raise self._not_finite(plan.rows, loss, norm.item())
        self.optimiser.step(rate, norm=norm, clip=self.train.clip)
        self.step += 1
        return Stepped(
            step=self.step,
            of=self.steps,
            loss=loss,
            learned_tokens=plan.learned,
            tokens=plan.tokens,
            seconds=time.perf_counter() - start,
            learning_rate=rate * self.optimiser.rate,
            gradient_norm=norm.item(),
        )

    def gradient(self, plan: Plan) -> tuple[float, float]:
        """Accumulate the gradient of the mean loss over the learned weight, or the rows, of a step.

        Returns:
            the mean loss, and what it was divided by.
        """
        weight = plan.weight
        if weight <= 0:
            raise ResultError(
                "The rows of this step teach nothing.", where=str(plan.rows[0].source), remedy="Check weights and data.learn."
            )
        surveyed = self._survey(plan)
        mine = self._mine(plan.packs)
        self.optimiser.expect(len(mine))
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        for number, pack in mine:
            torch.manual_seed(hash((self.train.seed, self.step, number)) & (2**63 - 1))  # dropout: no random state, whoever computes it
            loss = self.loss(pack, surveyed=surveyed)
            total += loss.detach()
            (loss / weight).backward()
        if self.team.size > 1:
            for sum_ in (total, *self.optimiser.gradients()):
                self.team.add(sum_)
        return total.item() / weight, weight

    def _mine(self, packs: list[Pack]) -> list[tuple[int, Pack]]:
        """This process's share of the forests of a step, those that teach something, with their numbers."""
        mine = list(enumerate(packs))[self.team.rank :: self.team.size]
        return [(number, pack) for number, pack in mine if len(pack.rows_N)]

    @property
    def step_budget(self) -> int:
        """Most tokens in one forest of a training step."""
        return WHOLE_STEP if self.optimiser.layerwise else self.budget

    def loss(self, pack: Pack, *, keep_gradient: bool = True, surveyed: Tensor | None = None) -> Tensor:
        """Summed loss of one forest; without a survey, as if it had found nothing."""
        if surveyed is None:
            surveyed = nothing(self.objective, max(pack.owners) + 1, self.model)
        with torch.set_grad_enabled(keep_gradient):
            return self.objective.loss(Forest(self.model, pack, surveyed))

    def _survey(self, plan: Plan) -> Tensor | None:
        """What the objective wants to know of the whole step before any gradient."""
        found = nothing(self.objective, len(plan.rows), self.model)
        if found is not None and isinstance(self.objective, Surveys):
            survey(self.objective, self.model, (pack for _, pack in self._mine(plan.aside if self.objective.aside else plan.packs)), found)
            self.team.add(found)
        return found

    def validate(self) -> float:
        """Mean held-out loss per learned weight, or per row, with the weights as they are."""
        assert self.valid is not None and len(self.valid), "there are no held-out rows"
        if self.rollouts is not None:
            return self.rollouts.look()
        self.team.say(Command.VALIDATE)
        self.model.network.eval()
        size = self.train.rows_per_step if isinstance(self.train.rows_per_step, int) else 8
        sums = torch.zeros(2, dtype=torch.float64, device=self.model.device)
        for chosen in batches(self.valid, size):
            plan = self._planned(chosen, self.budget)
            surveyed = self._survey(plan)
            for _, pack in self._mine(plan.packs):
                sums[0] += self.loss(pack, keep_gradient=False, surveyed=surveyed)
                sums[1] += pack.count(self.objective.per)
        self.team.add(sums)
        return (sums[0] / sums[1]).item()

    def _plan(self, step: int, budget: int) -> Plan:
        return self._planned([self.rows[i] for i in self.order.rows(step)], budget)

    def _fresh(self, step: int) -> Plan:
        assert self.rollouts is not None
        return self._planned(self.rollouts.rows(step, self.order.rows(step)), self.step_budget)

    def _planned(self, rows: list[Row], budget: int) -> Plan:
        aside = self.objective.aside if isinstance(self.objective, Surveys) else ""
        return planned(rows, budget, parts=self.team.size, per=self.objective.per, aside=aside)

    def _not_finite(self, chosen: list[Row], loss: float, norm: float) -> ResultError:
        guilty = [row.source for row in chosen if not math.isfinite(self._alone(row))]
        named = ", ".join(map(str, guilty[:5])) or "no single row"
        done = "part of the weights was updated" if self.optimiser.layerwise and math.isfinite(loss) else "nothing was updated"
        return ResultError(
            f"Step {self.step + 1}: the loss is {loss}, the gradient's length {norm}; {done}. Not finite by itself: {named}.",
            remedy="Look at that row, or lower train.learning_rate; the last checkpoint is intact.",
            code="not_finite",
        )

    def _alone(self, row: Row) -> float:
        return sum(self.loss(pack, keep_gradient=False).item() for pack in self._planned([row], self.budget).packs if len(pack.rows_N))


def batches(rows: Rows, size: int) -> Iterable[list[Row]]:
    """Rows in order, `size` at a time."""
    for first in range(0, len(rows), size):
        yield [rows[i] for i in range(first, min(first + size, len(rows)))]
