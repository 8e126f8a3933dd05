"""A small base with adapters of several ranks, and what each of them says alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from luthier.inference.serving.ask import Answering, Asked, Delta
from luthier.inference.serving.batch import Batch
from luthier.inference.serving.crowd import Crowd
from luthier.inference.serving.drawing import Drawing
from luthier.inference.serving.pieces import Pieces
from luthier.inference.serving.room import Room
from luthier.inference.serving.rows import Question, Row
from luthier.inference.serving.voice import Voice
from luthier.methods.lora import Method, Options
from luthier.models.load import fresh
from luthier.models.model import Model
from luthier.models.pool import Pool

from ..conftest import NETWORKS
from ..test_generate import reference

ENDS = frozenset(range(3, 9))
RANKS = {"small": 2, "middle": 8, "large": 24}


def base(model: Model) -> Model:
    """The same weights once more."""
    return fresh(NETWORKS["llama"], renderer=model.renderer, seed=1, dtype="float32", name="llama")


def tune(model: Model, name: str) -> Method:
    """An adapter that says something else."""
    few = ["q_proj", "down_proj"]
    method = Method(Options(rank=RANKS[name], rslora=name == "large", targets=few if name == "small" else "all-linear"))
    method.attach(model, seed=len(name), name=name)
    for place, delta in enumerate(method.deltas(model).values()):
        torch.nn.init.normal_(delta.B, std=0.15, generator=torch.Generator().manual_seed(place))
    return method


@pytest.fixture(scope="session")
def crowd(llama: Model) -> Crowd:
    """The base and its adapters, as they are served."""
    found = Crowd(base(llama))
    twin = found.twin()
    for name in RANKS:
        found.hang(name, dict(tune(twin, name).deltas(twin)))
    return found


@pytest.fixture(scope="session")
def alone(llama: Model) -> Callable[[str | None, list[int], int], list[int]]:
    """What transformers' own ``generate`` answers, greedily, one prompt at a time; an adapter is folded into the weights for it."""
    models: dict[str | None, Model] = {}
    said: dict[Any, list[int]] = {}

    def ask(name: str | None, prompt: list[int], limit: int) -> list[int]:
        if name not in models:
            models[name] = base(llama)
            if name is not None:
                tune(models[name], name).merge(models[name])
        key = (name, tuple(prompt), limit)
        if key not in said:
            said[key] = reference(models[name], prompt, limit=limit, stop=ENDS)
        return said[key]

    return ask


class Served:
    """A batch that is driven by hand, step by step."""

    def __init__(self, crowd: Crowd, *, places: int = 4000, most_rows: int = 64) -> None:
        self.model = crowd.model
        pool = Pool.of(self.model.config, places, dtype=self.model.dtype, device=self.model.device)
        self.room = Room(pool, most_rows)
        self.pieces = Pieces(self.model.renderer.tokenizer)
        self.batch = Batch(self.room, crowd, self.pieces)

    def ask(
        self,
        prompt: list[int],
        owner: str | None = None,
        *,
        limit: int = 12,
        ends: frozenset[int] = ENDS,
        enter: Callable[[list[Row]], None] | None = None,
        **changes: Any,
    ) -> Asking:
        changes.setdefault("temperature", 0.0)
        asked = Asked(model=owner or "base", prompt=prompt, **changes)
        question = Question(asked, Answering(asked.model), prompt, owner, limit, ends)
        reads: Any = "every" if asked.echo and asked.logprobs is not None else "last"
        rows = [
            Row(
                question,
                list(prompt),
                Drawing(asked, index, seed=asked.seed or 0),
                Voice(index, asked.stop, asked.logprobs is not None),
                reads,
            )
            for index in range(asked.n)
        ]
        (enter or self.batch.enter)(rows)
        return Asking(question, rows)

    def run(self) -> None:
        """Until everybody is answered."""
        for _ in range(5000):
            if self.batch.idle:
                assert self.room.pool.free == self.room.pool.size - self.room.known.size, "a place was lost"
                assert self.room.known.held == 0
                return
            self.batch.step()
        raise AssertionError("it never ends")


class Asking:
    """A question under way."""

    def __init__(self, question: Question, rows: list[Row]) -> None:
        self.question, self.rows = question, rows
        self.answering = question.answering

    @property
    def tokens(self) -> list[int]:
        """Those of its first answer, without the end token."""
        return self.rows[0].tokens[len(self.question.prompt) :]

    def deltas(self) -> list[Delta]:
        return list(self.answering)


def without_end(tokens: list[int]) -> list[int]:
    return tokens[:-1] if tokens[-1] in ENDS else tokens
