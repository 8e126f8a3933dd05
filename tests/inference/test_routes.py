"""Rows of one batch answered by adapters of different rank: each as if it were alone."""

from typing import Any

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.inference.generate import generate
from luthier.inference.keeper import Keeper
from luthier.inference.routes import NAME
from luthier.methods.lora import Method, Options
from luthier.models import slot
from luthier.models.load import fresh
from luthier.models.model import Model

from .conftest import NETWORKS
from .test_generate import STOP, prompts

RANKS = {"small": 4, "middle": 16, "large": 64}
KINDS = {**NETWORKS, "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 512, "initializer_range": 0.2}}


@pytest.fixture(scope="module", params=sorted(KINDS))
def several(request: pytest.FixtureRequest, llama: Model) -> Model:
    """A network with three adapters; the small one stands at two linears of a block only."""
    model = fresh(KINDS[request.param], renderer=llama.renderer, seed=1, dtype="float32")
    short = {path.rpartition(".")[2] for path in model.linears()}
    few = sorted(short)[:2]
    for number, (name, rank) in enumerate(RANKS.items()):
        method = Method(Options(rank=rank, rslora=name == "large", targets=few if name == "small" else "all-linear"))
        method.attach(model, seed=number, name=name)
        for place, delta in enumerate(method.deltas(model).values()):
            torch.nn.init.normal_(delta.B, std=0.1, generator=torch.Generator().manual_seed(place))
    slot.activate(model.network, None)
    return model


def alone(model: Model, name: str | None, settings: dict[str, Any]) -> list[list[int]]:
    with slot.answering(model.network, name):
        return [generate(model, [prompt], **settings)[0].tokens for prompt in prompts()]


@pytest.mark.parametrize("kept", [False, True])
def test_each_row_answers_as_it_would_alone(several: Model, kept: bool) -> None:
    settings: dict[str, Any] = {"max_tokens": 8, "stop": STOP}
    names = [None, "small", "middle", "large"]
    wanted = {name: alone(several, name, settings) for name in names}
    assert len({str(wanted[name]) for name in names}) == 4
    keeper = Keeper() if kept else None
    for shift in range(3 if kept else 1):
        who = [names[(row + shift) % 4] for row in range(len(prompts()))]
        found = generate(several, prompts(), adapters=who, keeper=keeper, **settings)
        assert [g.tokens for g in found] == [wanted[name][row] for row, name in enumerate(who)]
    assert slot.answers(several.network) is None
    assert all(place.delta(NAME) is None for place in slot.slots(several.network).values())


def test_an_unknown_adapter_is_refused(several: Model) -> None:
    with pytest.raises(ModelError, match="There is no adapter called 'lagre' here"):
        generate(several, [[1, 2]], max_tokens=1, adapters=["lagre"])
