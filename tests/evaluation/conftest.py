"""A real small model, tuned for real: stories260k with an adapter that learned to answer with a label line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from luthier.core.example import Example, Message, Source
from luthier.core.sequence import Row
from luthier.core.spec import TrainSpec
from luthier.engine.loop import fit
from luthier.engine.session import Session
from luthier.methods.lora import Method, Options
from luthier.models.load import load
from luthier.models.model import Model
from luthier.objectives.sft import Objective

GOOD = ("happy", "kind", "nice", "pretty", "sunny", "funny", "good", "great", "warm", "sweet")
BAD = ("sad", "mean", "angry", "scared", "dark", "cold", "bad", "hurt", "mad", "lost")


def examples(first: int, count: int) -> list[Example]:
    """Rows whose label follows from one word, numbered from `first`."""
    made = []
    for row in range(first, first + count):
        words, label = ((GOOD, "yes"), (BAD, "no"))[row % 2]
        text = f"Tom was {words[row // 2 % 10]} on day {row}."
        made.append(
            Example(Source("days.jsonl", row), messages=[Message("user", text), Message("assistant", f"{label}\nIt was day {row}.")])
        )
    return made


def rows(model: Model, several: list[Example]) -> list[Row]:
    return [Row(e.source, model.renderer.render(e)) for e in several]


@dataclass
class Tuned:
    model: Model
    method: Method
    held_out: list[Example]
    rows: list[Row]


@pytest.fixture(scope="session")
def tuned(shared: Path) -> Tuned:
    model = load(str(shared / "models" / "stories260k"), dtype="float32")
    method = Method(Options(rank=8))
    method.attach(model, seed=0)
    train = TrainSpec(epochs=4, rows_per_step=8, learning_rate=0.005, max_steps=30, save_every=1000, validate_every=1000)
    objective: Any = Objective()
    for _ in fit(Session(model, method, objective, rows=rows(model, examples(1, 120)), train=train)):
        pass
    held_out = examples(1001, 40)
    return Tuned(model, method, held_out, rows(model, held_out))
