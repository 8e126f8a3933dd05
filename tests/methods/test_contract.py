"""What every method promises, whatever its name: a new file in ``methods/`` is held to it without further work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.core.registry import Folder
from luthier.models.sight import Sight

METHODS = Folder("luthier.methods", "method")
NAMES = METHODS.names()
TOKENS_T = torch.tensor([5, 9, 77, 31, 8, 250, 4, 64, 12, 90, 17, 3])


def logits(model: Any) -> Tensor:
    length = len(TOKENS_T)
    sight = Sight(np.full(length, length), np.arange(length))
    return model.head()(model.states(tokens_T=TOKENS_T, positions_T=torch.arange(length), sight=sight))


def train(model: Any, method: Any, *, steps: int = 3, rate: float = 0.01) -> None:
    """A few real steps on a real loss."""
    groups = [{"params": [p for _, p in g.parameters], "lr": rate * g.rate} for g in method.groups(model)]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits(model)[:-1], TOKENS_T[1:]).backward()
        optimiser.step()


def attached(name: str, model: Any, *, seed: int = 0) -> Any:
    module = METHODS.load(name)
    method = module.Method(module.Options())
    method.attach(model, seed=seed, name="desk.v1")
    return method


@pytest.fixture(params=["llama", "gpt2"])
def make(request: pytest.FixtureRequest, tiny_model: Callable[..., Any]) -> Callable[..., Any]:
    """Two shapes of network: plain linears, and GPT-2's transposed ones with a tied head."""
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1} if request.param == "gpt2" else {}
    return lambda **more: tiny_model(model_type=request.param, **shape, **more)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changes_before_the_first_step(name: str, make: Callable[..., Any]) -> None:
    model = make()
    before = logits(model)
    attached(name, model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("name", NAMES)
def test_exactly_what_is_declared_moves(name: str, make: Callable[..., Any]) -> None:
    model = make()
    method = attached(name, model)
    declared = {id(p) for g in method.groups(model) for _, p in g.parameters}
    before = {key: p.detach().clone() for key, p in model.network.named_parameters()}
    assert declared == {id(p) for p in model.network.parameters() if p.requires_grad}
    train(model, method)
    for key, p in model.network.named_parameters():
        assert torch.equal(p, before[key]) == (id(p) not in declared), key


@pytest.mark.parametrize("name", NAMES)
def test_state_is_what_moves_and_comes_back(name: str, make: Callable[..., Any]) -> None:
    model, other = make(), make()
    method, again = attached(name, model), attached(name, other, seed=7)
    assert sum(t.numel() for t in method.state(model).values()) == model.num_trained
    train(model, method)
    again.load_state(other, {key: t.clone() for key, t in method.state(model).items()})
    assert torch.equal(logits(other), logits(model))


@pytest.mark.parametrize("name", NAMES)
def test_a_strangers_state_is_refused(name: str, make: Callable[..., Any]) -> None:
    model = make()
    method = attached(name, model)
    state = method.state(model)
    with pytest.raises(ModelError, match="saved from another model"):
        method.load_state(model, dict(list(state.items())[1:]))


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_answers_the_same(name: str, make: Callable[..., Any], tmp_path: Path) -> None:
    model, other = make(), make()
    method = attached(name, model)
    train(model, method)
    method.save(model, tmp_path / method.folder_name)
    loaded = METHODS.load(name).Method.load(other, tmp_path / method.folder_name, name="other")
    assert torch.equal(logits(other), logits(model))
    assert loaded.state(other).keys() == method.state(model).keys()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "no half-written folder stays"


@pytest.mark.parametrize("name", NAMES)
def test_merged_is_plain_and_answers_the_same(name: str, make: Callable[..., Any]) -> None:
    model, plain = make(), make()
    method = attached(name, model)
    if "merge" not in method.supports:
        pytest.skip(f"{name} does not merge")
    train(model, method)
    before = logits(model)
    method.merge(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    assert model.network.state_dict().keys() == plain.network.state_dict().keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_base_can_be_asked_or_says_that_it_cannot(name: str, make: Callable[..., Any]) -> None:
    model = make()
    base = logits(model)
    method = attached(name, model)
    train(model, method)
    tuned = logits(model)
    with method.active(model, True):
        assert torch.equal(logits(model), tuned)
    if "swap" in method.supports:
        with method.active(model, False):
            assert torch.equal(logits(model), base)
    else:
        with pytest.raises(ModelError, match="cannot answer as the base"), method.active(model, False):
            pass
    assert torch.equal(logits(model), tuned)
    assert not torch.equal(tuned, base)


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_its_help(name: str) -> None:
    for key, field in METHODS.load(name).Options.model_fields.items():
        assert field.description, f"{name}.{key}"
