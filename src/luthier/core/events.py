"""What a run tells the world while it happens. Whoever asked for the run listens; nobody else is called back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True, frozen=True)
class Event:
    """Base of all events; `kind` is the class name in lower case."""

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()

    def to_json(self) -> dict[str, Any]:
        """The event as plain fields, with its kind."""
        return {"kind": self.kind, **asdict(self)}


@dataclass(slots=True, frozen=True)
class Stage(Event):
    """A new part of the job begins: check, ledger, rehearse, tune, evaluate, certify, report."""

    name: str
    detail: str = ""


@dataclass(slots=True, frozen=True)
class Progress(Event):
    """How far the present stage has come. `total` is 0 while it is unknown."""

    stage: str
    done: int
    total: int
    unit: str = "rows"


@dataclass(slots=True, frozen=True)
class Stepped(Event):
    """One optimiser step is done.

    Attributes:
        step: number of the step, from 1; of: the last one planned.
        loss: mean loss per learned token of the step, in nats.
        learned_tokens, tokens: learned and true tokens (no sharing subtracted) of the step.
        seconds: wall time of the step. learning_rate, gradient_norm: as applied (norm before clipping).
    """

    step: int
    of: int
    loss: float
    learned_tokens: int
    tokens: int
    seconds: float
    learning_rate: float
    gradient_norm: float


@dataclass(slots=True, frozen=True)
class Validated(Event):
    """Held-out loss in nats per learned token, and whether it is the best so far."""

    step: int
    loss: float
    best: bool


@dataclass(slots=True, frozen=True)
class Saved(Event):
    """A checkpoint is complete on disk."""

    step: int
    folder: str


@dataclass(slots=True, frozen=True)
class Note(Event):
    """Something the user should read once: a derivation, a choice made for them, a warning."""

    text: str
    level: str = "info"
    data: dict[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


def silence(event: Event) -> None:
    """The listener that hears nothing: a null object, so that nobody asks whether anybody listens."""
