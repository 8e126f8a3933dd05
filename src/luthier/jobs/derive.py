"""The dial `quality` becomes numbers, and says how. Every "auto" of a Spec is resolved here, from the data and the model.

The sources stand beside the constants; `docs/choosing-numbers.md` tells the same to people. What is a guess is called one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import SpecError
from luthier.core.events import Note
from luthier.core.spec import Spec, TrainSpec
from luthier.jobs import specs
from luthier.jobs.rates import rates

EPOCHS = {"draft": 1.0, "good": 3.0, "best": 5.0}
"""Passes over the rows. 3 is the value of the LoRA, QLoRA and Alpaca recipes for thousands of rows; held-out loss and `patience` stop what
is too much. (QLoRA, arXiv 2305.14314, table 9; LoRA, arXiv 2106.09685, table 11 used 5 on E2E.)"""

FEW_ROWS = 1000
"""Below this, `good` and `best` see rows once more: the number of *steps* is what learns. A guess; patience guards it."""

SMALL_BASE = 50e6
"""Below this many parameters `good` and `best` see rows twice more: a tiny base still has to learn most of the task itself, and its
held-out loss on the sample was still falling after one pass (docs/log.md)."""

ROWS_PER_STEP = 16
"""QLoRA used 16. "LoRA Without Regret" (Schulman and others, 2025) finds LoRA to lose against full tuning as batches grow, so not more.
Few rows take less, so that an epoch has at least MIN_STEPS steps."""

MIN_STEPS = 20
"""Steps in one pass below which the batch is halved. A guess that keeps warm-up and schedule meaningful."""

STILL_EPOCHS = {"draft": 5.0, "good": 20.0, "best": 40.0}
"""Passes where nothing of the network moves (method head): each costs a thin product, and a linear model converges slowly. A guess;
patience guards it."""

DRAFT_STEPS = 60
"""A draft is a look: enough steps to see the loss fall, seconds to a minute on two cores."""

LOOKS = 8
"""Held-out looks per run: enough for a curve and for patience, cheap beside the steps."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the derivation looks at.

    Attributes:
        rows: training rows. tokens, learned: true and learned tokens in one pass over them. longest: tokens of the longest row.
        longest_answer: tokens of the longest expected answer among the held-out rows; 0 when unknown.
        parameters: of the base. dtype, context: as the model was loaded. accelerators: how many this machine has.
        objective_rate: the objective's learning rate as a share of supervised tuning's. still: nothing of the network moves.
    """

    rows: int
    tokens: int
    learned: int
    longest: int
    longest_answer: int
    parameters: int
    dtype: str
    context: int
    accelerators: int = 0
    objective_rate: float = 1.0
    still: bool = False


def derive(spec: Spec, facts: Facts) -> tuple[Spec, list[Note]]:
    """Replace every "auto" by a number.

    Returns:
        the Spec without "auto" in model, train and evaluate (but ``evaluate.metric``, which the answers decide, and
        ``train.tokens_per_pack``, ``optimiser``, ``recompute`` and ``offload``, which memory decides); one note per number derived.
    """
    derivation = _Derivation(spec, facts)
    train = derivation.train()
    update: dict[str, Any] = {
        "model": spec.model.model_copy(update={"dtype": facts.dtype, "context": facts.context}),
        "train": train,
        "evaluate": spec.evaluate.model_copy(update={"max_tokens": derivation.max_tokens()}),
    }
    return spec.model_copy(update=update), derivation.notes


class _Derivation:
    """One derivation: numbers asked in order, and the sentences that explain them."""

    def __init__(self, spec: Spec, facts: Facts) -> None:
        self.spec, self.facts = spec, facts
        self.notes: list[Note] = []

    def take(self, asked: Any, name: str, value: Any, why: str) -> Any:
        """`asked` when the user said it, else the derived `value`, with a note."""
        if asked != "auto":
            return asked
        self.notes.append(Note(f"{name} {_short(value)}: {why}", data={"field": name, "value": value}))
        return value

    def train(self) -> TrainSpec:
        asked = self.spec.train
        if asked.group_prefixes and not asked.shuffle:
            raise SpecError(
                "train.group_prefixes deals the rows anew, but train.shuffle = false keeps the order of the file.",
                remedy="Leave one of them out.",
                code="bad_value",
            )
        if asked.offload is True and asked.recompute is False:
            raise SpecError(
                "train.offload moves the states of recomputed blocks, but train.recompute = false has none.",
                remedy="Leave train.recompute out.",
                code="bad_value",
            )
        rows_per_step = self.take(asked.rows_per_step, "rows_per_step", *self.rows_per_step())
        epochs = self.take(asked.epochs, "epochs", *self.epochs())
        planned = math.ceil(max(1, round(epochs * self.facts.rows)) / rows_per_step)
        steps = self.steps(asked, planned)
        every = max(1, steps // LOOKS)
        return asked.model_copy(
            update={
                "rows_per_step": rows_per_step,
                "epochs": epochs,
                "max_steps": steps,
                "learning_rate": self.take(asked.learning_rate, "learning_rate", *self.learning_rate()),
                "validate_every": self.take(
                    asked.validate_every, "validate_every", every, f"{LOOKS} looks at the held-out loss in {steps} steps"
                ),
                "processes": self.processes(asked),
                "save_every": self.take(asked.save_every, "save_every", every, "a kill loses at most the steps between two looks"),
            }
        )

    def rows_per_step(self) -> tuple[int, str]:
        """The largest power of two up to ROWS_PER_STEP that leaves MIN_STEPS steps in a pass."""
        size = ROWS_PER_STEP
        while size > 1 and self.facts.rows / size < MIN_STEPS:
            size //= 2
        return size, f"{self.facts.rows} rows, {math.ceil(self.facts.rows / size)} steps in a pass"

    def epochs(self) -> tuple[float, str]:
        quality = self.spec.quality
        if self.facts.still:
            return STILL_EPOCHS[quality], f"quality {quality}; the network stands still, so a pass costs next to nothing"
        epochs, why = EPOCHS[quality], f"quality {quality}"
        if quality == "draft":
            return epochs, why
        if self.facts.rows < FEW_ROWS:
            epochs, why = epochs + 1, f"{why}, one more because {self.facts.rows} rows are few"
        if self.facts.parameters < SMALL_BASE:
            epochs, why = epochs + 2, f"{why}, two more because {_millions(self.facts.parameters)} is a small base"
        return epochs, why

    def steps(self, asked: TrainSpec, planned: int) -> int:
        """Steps of the run. Only a draft that named neither epochs nor steps is cut short."""
        if asked.max_steps != "auto":
            return min(asked.max_steps, planned)
        if self.spec.quality == "draft" and asked.epochs == "auto" and planned > DRAFT_STEPS:
            return int(self.take("auto", "max_steps", DRAFT_STEPS, f"a draft looks at {DRAFT_STEPS} of the {planned} steps of a pass"))
        return planned

    def learning_rate(self) -> tuple[float, str]:
        return usual_rate(self.spec, parameters=self.facts.parameters, objective_rate=self.facts.objective_rate)

    def processes(self, asked: TrainSpec) -> int:
        """One per accelerator; on a CPU one process keeps all cores as busy as two do, in half the memory. One is not worth telling."""
        if asked.optimiser == "layerwise":
            return self._alone(asked)
        number = self.facts.accelerators
        if number < 2 and asked.processes == "auto":
            return 1
        return int(self.take(asked.processes, "processes", number, f"one for each of {number} accelerators"))

    def _alone(self, asked: TrainSpec) -> int:
        """Layerwise updates drop each gradient before another process could add its own."""
        if asked.processes not in ("auto", 1):
            raise SpecError(
                f"train.optimiser = layerwise works in one process, but train.processes = {asked.processes}.",
                remedy="Choose adamw8bit, or leave train.processes out.",
                code="bad_value",
            )
        return 1

    def max_tokens(self) -> int:
        """Room for one and a half times the longest expected answer, within the model's context."""
        value = min(math.ceil(1.5 * self.facts.longest_answer) + 16, self.facts.context)
        return int(
            self.take(
                self.spec.evaluate.max_tokens, "max_tokens", value, f"1.5 x the longest expected answer ({self.facts.longest_answer}) + 16"
            )
        )


def usual_rate(spec: Spec, *, parameters: int, objective_rate: float) -> tuple[float, str]:
    """The learning rate where nobody says one, and why: it depends on method and objective, and on the size of the base."""
    name = spec.method.name
    headed = specs.OBJECTIVES.load(spec.objective.name).Objective.meaning is not None
    rate = objective_rate * rates().get(name, rates()["lora"]).at(parameters, headed=headed)
    less = "" if objective_rate == 1 else f", {objective_rate:g} of it for {spec.objective.name}"
    beside = ", beside a new head" if headed else ""
    return rate, f"{name} on a {_millions(parameters)} model{beside}{less}"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.3g} M"


def _short(value: float) -> str:
    return f"{value:g}"
