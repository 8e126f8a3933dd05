"""Blocks compiled one by one: the same numbers, and nothing is compiled again for another block, length or tree."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import AttentionInterface

from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence
from luthier.core.spec import TrainSpec
from luthier.engine.ahead import planned
from luthier.engine.session import Session
from luthier.engine.tree import Pack
from luthier.methods import lora
from luthier.models import regional, sight
from luthier.models.recompute import recompute
from luthier.objectives import sft

pytestmark = [  # what torch says of itself while it traces
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
]


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Traced, guarded and differentiated as for an accelerator; the graphs then run as they are: inductor takes minutes for them here."""
    monkeypatch.setattr(regional, "BACKEND", "aot_eager")
    logging.disable(logging.DEBUG)  # a record of every guard, which pytest would keep
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    logging.disable(logging.NOTSET)
    AttentionInterface.register(sight.NAME, sight.attend)


def forests(*seeds: int) -> list[Pack]:
    """Trees of other sizes and forms, a few for each seed."""
    found = []
    for seed in seeds:
        dice = np.random.default_rng(seed)
        prompt, rows = dice.integers(0, 300, 20), []
        for i in range(3 + seed % 5):
            tokens = np.concatenate([prompt if i % 2 else [], dice.integers(0, 300, dice.integers(5, 40))]).astype(np.int32)
            weights = np.ones(len(tokens), np.float32)
            weights[0] = 0
            rows.append(Row(Source("rows", i + 1), [Sequence(tokens, weights)]))
        found += planned(rows, 150).packs
    return found


def session(model: Any, **said: Any) -> Session:
    """Steps of lora that has begun to learn."""
    method = lora.Method(lora.Options(rank=4))
    method.attach(model, seed=0)
    for delta in method.deltas(model).values():
        torch.nn.init.constant_(delta.B, 0.02)
    train = TrainSpec(epochs=1, rows_per_step=4, learning_rate=1e-3, **said)
    rows = [Row(Source("rows", 1), [Sequence(np.arange(9, dtype=np.int32), np.eye(1, 9, 8, dtype=np.float32)[0])])]
    return Session(model, method, sft.Objective(), rows=rows, train=train)


def numbers(session: Session, packs: list[Pack]) -> tuple[list[float], dict[str, Tensor]]:
    """Losses, and the gradients of what moves, all forests together."""
    session.optimiser.expect(len(packs))
    losses = []
    for pack in packs:
        loss = session.loss(pack)
        loss.backward()
        losses.append(loss.item())
    return losses, {name: p.grad for name, p in session.model.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("kind", "again"), [("llama", True), ("gpt2", False)], ids=str)
def test_numbers_stay_and_nothing_is_compiled_twice(
    tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, kind: str, again: bool
) -> None:
    monkeypatch.setattr("luthier.models.load.fuse", lambda _: 0)  # as on an accelerator
    shape = {"n_layer": 3} if kind == "gpt2" else {"num_hidden_layers": 3}
    plain, compiled = (session(tiny_model(model_type=kind, **shape), recompute=again, compile=on) for on in (False, True))
    made = []
    for packs in (forests(1, 2), forests(3, 4, 5)):
        (wanted, gradients), (found, theirs) = numbers(plain, packs), numbers(compiled, packs)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
        assert gradients.keys() == theirs.keys()
        for name, gradient in gradients.items():
            assert torch.allclose(theirs[name], gradient, rtol=1e-4, atol=1e-6), name
        made.append(counters["stats"]["unique_graphs"])
    assert 0 < made[0] == made[1], "another length or tree is no reason to compile again"


def test_blocks_can_be_had_back_as_they_were(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    before = [block.__dict__.get("plain", block).forward for block in model.blocks()]
    for again in (False, True):
        recompute(model, again)
        regional.compile_blocks(model, True)
        regional.compile_blocks(model, False)
        recompute(model, False)
        assert [block.__dict__.get("plain", block).forward for block in model.blocks()] == before
