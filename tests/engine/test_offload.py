"""States of recomputed blocks wait in main memory: the same gradients, one copy a block, and nobody runs far ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.core.sequence import Row
from luthier.core.spec import TrainSpec
from luthier.engine.ahead import planned
from luthier.engine.session import Session
from luthier.methods import full
from luthier.models.offload import AHEAD, Offload
from luthier.objectives import sft


def gradients(model: Any, rows: list[Row], **said: bool) -> dict[str, Tensor]:
    """Of every weight, for a step of several forests."""
    method = full.Method()
    method.attach(model)
    train = TrainSpec(rows_per_step=8, learning_rate=1e-3, epochs=1, tokens_per_pack=100, **said)
    Session(model, method, sft.Objective(), rows=rows, train=train).gradient(planned(rows[:8], 100))
    return {name: p.grad.clone() for name, p in model.network.named_parameters() if p.grad is not None}


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Tensor]]:
    """What goes out and what comes back, in turn."""
    seen: list[tuple[str, Tensor]] = []
    out, back = Offload.out, Offload.back

    def noted_out(self: Offload, state: Tensor) -> Any:
        away = out(self, state)
        seen.append(("out", away.host))
        return away

    def noted_back(self: Offload, away: Any) -> Tensor:
        seen.append(("back", away.host))
        return back(self, away)

    monkeypatch.setattr(Offload, "out", noted_out)
    monkeypatch.setattr(Offload, "back", noted_back)
    return seen


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_gradients_are_the_same_bit_for_bit(
    tiny_model: Callable[..., Any],
    bushy_rows: Callable[..., list[Row]],
    ways: list[tuple[str, Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr("luthier.models.load.fuse", lambda _: 0)  # as on an accelerator
    rows, models = bushy_rows(count=20), [tiny_model(model_type=kind) for _ in range(3)]
    forests = len(planned(rows[:8], 100).packs)
    plain = gradients(models[0], rows, recompute=False, offload=False)
    kept = gradients(models[1], rows, recompute=True, offload=False)
    assert not ways
    moved = gradients(models[2], rows, recompute=True, offload=True)
    assert plain.keys() == kept.keys() == moved.keys()
    assert all(torch.equal(moved[name], gradient) for name, gradient in kept.items())
    assert all(torch.allclose(moved[name], gradient, atol=1e-6) for name, gradient in plain.items())
    went = [host for way, host in ways if way == "out"]
    came = [host for way, host in ways if way == "back"]
    blocks = len(models[2].blocks())
    assert forests > 1
    assert len(went) == forests * blocks, "one state a block and forest"
    for first in range(0, len(went), blocks):
        some = slice(first, first + blocks)
        assert [id(host) for host in came[some]] == [id(host) for host in went[some]][::-1], "the last one out is the first one back"


def test_what_travels_is_a_copy(ways: list[tuple[str, Tensor]]) -> None:
    way, state = Offload(torch.device("cpu")), torch.randn(5, 3)
    away = way.out(state)
    assert away.host.data_ptr() != state.data_ptr()
    returned = way.back(away)
    assert torch.equal(returned, state)
    assert returned.data_ptr() not in (away.host.data_ptr(), state.data_ptr())


def test_the_program_never_runs_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    pending: list[object] = []
    most = 0

    class Event:
        def record(self, stream: object) -> None:
            nonlocal most
            pending.append(self)
            most = max(most, len(pending))

        def synchronize(self) -> None:
            del pending[: pending.index(self) + 1]

    way = Offload(torch.device("cpu"))
    monkeypatch.setattr(torch.cpu, "Event", Event)
    for _ in range(10):
        way.out(torch.ones(2))
    assert most == AHEAD + 1
