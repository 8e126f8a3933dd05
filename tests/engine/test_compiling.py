"""Blocks are compiled where the run is long and both ways were timed; what was said is done without asking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from luthier.core.spec import TrainSpec
from luthier.engine import compiling
from luthier.engine.compiling import Choice, choose
from luthier.engine.session import Session
from luthier.methods import lora
from luthier.models import regional
from luthier.models.model import Model
from luthier.objectives import sft

LONG = 10_000_000.0
"""Tokens of a run of 10,000 s, at a millisecond each."""


@pytest.fixture
def session(tiny_model: Callable[..., Any], bushy_rows: Callable[..., Any]) -> Callable[..., Session]:
    def make(**said: Any) -> Session:
        model, method = tiny_model(), lora.Method(lora.Options(rank=4))
        method.attach(model, seed=0)
        train = TrainSpec(epochs=1, rows_per_step=4, learning_rate=1e-3, **said)
        return Session(model, method, sft.Objective(), rows=bushy_rows(count=8), train=train)

    return make


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is run compiled here, and inductor is long to import."""
    monkeypatch.setattr(regional, "BACKEND", "eager")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine may compile."""
    monkeypatch.setattr(compiling, "DEVICES", {"cpu"})
    monkeypatch.setattr(compiling, "can_compile", lambda: True)


def never() -> float:
    raise AssertionError("nothing had to be measured")


def compiled(model: Model) -> set[str]:
    """Classes of the forwards of the blocks' own code."""
    return {type(block.__dict__.get("plain", block).forward).__name__ for block in model.blocks()}


@pytest.mark.parametrize("said", [False, True])
def test_what_was_said_is_done(session: Callable[..., Session], said: bool) -> None:
    found = session(compile=said)
    assert choose(found, 0.001, LONG, never) == Choice(said, 0.001)
    assert compiled(found.model) == {"_Compiled" if said else "method"}


def test_a_processor_has_kernels_of_its_own(session: Callable[..., Session]) -> None:
    assert choose(session(), 0.001, LONG, never) == Choice(False, 0.001)


@pytest.mark.usefixtures("here")
def test_a_short_run_does_without(session: Callable[..., Session]) -> None:
    found = choose(session(), 0.001, 500_000, never)
    assert (found.compiled, found.told) == (False, "Blocks are not compiled: that takes about 60 s, and the run about 500.")


@pytest.mark.usefixtures("here")
def test_without_a_compiler_everything_works(session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "can_compile", lambda: False)
    assert choose(session(), 0.001, LONG, never).told == "Blocks are not compiled: there is no C++ compiler."


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("measured", [0.0008, 0.0012], ids=["faster", "slower"])
def test_the_faster_way_is_taken(session: Callable[..., Session], measured: float) -> None:
    found = session()
    seen = []
    choice = choose(found, 0.001, LONG, lambda: (seen.append(compiled(found.model)), measured)[1])
    assert seen == [{"_Compiled"}], "it was timed compiled"
    assert choice.compiled == (measured < 0.001)
    assert choice.seconds_per_token == min(measured, 0.001)
    assert f"{1e3 * measured:.3f} ms a token instead of 1.000, after" in choice.told
    assert compiled(found.model) == {"_Compiled" if choice.compiled else "method"}


@pytest.mark.usefixtures("here")
def test_a_compiler_that_fails_stops_no_run(session: Callable[..., Session]) -> None:
    def broken() -> float:
        raise RuntimeError("triton is not here\nand much more")

    found = session()
    assert choose(found, 0.001, LONG, broken) == Choice(False, 0.001, "Blocks are not compiled: RuntimeError: triton is not here.")
    assert compiled(found.model) == {"method"}
