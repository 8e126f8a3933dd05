"""A step recorded once and replayed writes what a step written out does: nothing that changes from step to step is a number of Python's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from tests.inference.conftest import NETWORKS
from tests.inference.test_generate import STOP, prompts
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from luthier.data.render import Renderer
from luthier.inference import generate as generating
from luthier.inference.generate import Generation, generate
from luthier.inference.keeper import Keeper
from luthier.models import replay, steady
from luthier.models.load import fresh
from luthier.models.model import Model
from luthier.models.replay import Again, Replay


class Recording(TorchDispatchMode):
    """Every operation of some work, to be done again on the same memory: what a CUDA graph does, on the CPU."""

    made: ClassVar[list[Recording]] = []

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        self.made.append(self)

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        out = function(*given, **(named or {}))
        self.calls.append((function, given, named or {}, out))
        return out

    @classmethod
    def record(cls, work: Callable[[], Tensor]) -> Again:
        """Unlike a graph's, this recording does the work; it writes the same numbers to the same places as the first replay."""
        self = cls()
        with self:
            result = work()

        def again() -> Tensor:
            self.replays += 1
            self._again()
            return result

        return again

    def _again(self) -> None:
        for function, given, named, out in self.calls:
            new = function(*given, **named)
            for before, now in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if isinstance(before, Tensor) and before.untyped_storage().data_ptr() != now.untyped_storage().data_ptr():
                    before.copy_(now)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    """As on an accelerator: steps are recorded, all work is torch's, and room grows eight columns at a time."""
    monkeypatch.setattr(replay, "DEVICES", {"cpu"})
    monkeypatch.setattr(generating, "Replay", partial(Replay, recorder=Recording.record))
    monkeypatch.setattr(steady, "CHUNK", 8)
    monkeypatch.setenv("LUTHIER_NO_COMPILER", "1")
    monkeypatch.setattr("luthier.inference.reader._known", lambda _: False)
    monkeypatch.setattr("luthier.inference.reader._packs", lambda _: False)
    monkeypatch.setattr(Recording, "made", [])
    return Recording.made


def equal(found: list[Generation], wanted: list[Generation]) -> None:
    assert [g.tokens for g in found] == [g.tokens for g in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=2e-5)


KINDS: dict[str, dict[str, Any]] = {
    "llama": NETWORKS["llama"],
    "gpt2": {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 512, "initializer_range": 0.2},
    "gemma2": {**NETWORKS["llama"], "model_type": "gemma2", "head_dim": 16, "sliding_window": 12},
    "mistral": {**NETWORKS["llama"], "model_type": "mistral", "sliding_window": 12},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_what_is_written_stays_the_same(renderer: Renderer, request: pytest.FixtureRequest, kind: str, temperature: float) -> None:
    model = fresh(KINDS[kind], renderer=renderer, seed=1, dtype="float32", name=kind)
    limits = [12 + 4 * (row % 5) for row in range(len(prompts()))]  # rows leave at different steps
    settings: dict[str, Any] = {"max_tokens": limits, "temperature": temperature, "seed": 3, "stop": STOP}
    wanted = generate(model, prompts(), **settings)
    made: list[Recording] = request.getfixturevalue("recorded")
    equal(generate(model, prompts(), **settings), wanted)
    assert len(made) > 2, "rows that leave, and columns that are full, want another recording"
    assert sum(recording.replays for recording in made) >= 6


def test_what_was_said_is_kept(llama: Model, recorded: list[Recording]) -> None:
    keeper = Keeper()
    prompt = prompts()[0]
    reader = keeper.reader(llama, pack=False)
    picker = generating.Picker([0], temperature=0.0, top_p=1.0, seed=0)
    writing = generating.begin(reader, [prompt], picker, limit=20, owners=[(llama.network, None)], keeper=keeper)
    said = [writing.step()[0][0] for _ in range(20)]
    assert isinstance(writing, generating.Writing)
    writing.keep_said(said)
    assert recorded
    again = generate(llama, [[*prompt, *said[:-1], 11]], max_tokens=3, keeper=keeper)
    equal(again, generate(llama, [[*prompt, *said[:-1], 11]], max_tokens=3))


def test_what_cannot_be_recorded_goes_on_as_it_is(llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: Callable[[], Tensor]) -> Again:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    wanted = generate(llama, prompts(), max_tokens=20, stop=STOP)
    monkeypatch.setattr(replay, "DEVICES", {"cpu"})
    monkeypatch.setattr(generating, "Replay", made := partial(Replay, recorder=refuse))
    equal(generate(llama, prompts(), max_tokens=20, stop=STOP), wanted)
    some = made(lambda: torch.ones(1))
    assert [some("key").item() for _ in range(3)] == [1, 1, 1]
    assert some.refused == "operation not permitted when stream is capturing"


def test_short_answers_are_not_recorded(llama: Model, recorded: list[Recording]) -> None:
    generate(llama, prompts(), max_tokens=generating.WORTH_RECORDING - 1)
    assert not recorded
