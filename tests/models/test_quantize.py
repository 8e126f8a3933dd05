"""Packed linears compute what their unpacked weights compute; LoRA learns on them; merging unpacks."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from luthier.core.errors import MissingPart
from luthier.methods import lora
from luthier.models import quantize
from luthier.models.load import load, save
from luthier.models.sight import Sight

KINDS = [
    "int8",
    pytest.param("nf4", marks=pytest.mark.skipif(not find_spec("bitsandbytes"), reason="no bitsandbytes")),
]
TOKENS_T = torch.tensor([5, 9, 77, 31, 8, 250, 4, 64, 12, 90])


def states(model):
    length = len(TOKENS_T)
    return model.states(tokens_T=TOKENS_T, positions_T=torch.arange(length), sight=Sight(np.full(length, length), np.arange(length)))


@pytest.fixture
def folder(tiny_model, tmp_path: Path) -> Path:
    save(tiny_model(seed=4, hidden_size=64, intermediate_size=128, head_dim=16), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    """What `auto` computes in depends on the processor; equality is tested without rounding."""
    monkeypatch.setattr("luthier.models.load.compute_dtype", lambda: torch.float32)


def adapted(model):
    """With an adapter that already says something."""
    method = lora.Method(lora.Options(rank=4))
    method.attach(model, seed=1)
    generator = torch.Generator().manual_seed(2)
    for delta in method.deltas(model).values():
        delta.B.data = torch.randn(delta.B.shape, generator=generator) * 0.05
    return method


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_network_equals_one_with_the_unpacked_weights(folder, kind):
    packed, plain = load(str(folder), dtype=kind), load(str(folder), dtype=kind)
    quantize.unpack(plain.network)
    assert not quantize.packed_weights(plain.network)
    methods = [adapted(model) for model in (packed, plain)]
    found, wanted = states(packed), states(plain)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    for out in (found, wanted):
        out.square().sum().backward()
    for name, delta in methods[0].deltas(packed).items():
        other = methods[1].deltas(plain)[name]
        torch.testing.assert_close(delta.A.grad, other.A.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(delta.B.grad, other.B.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_near_the_base_and_small(folder, kind):
    packed, base = load(str(folder), dtype=kind), load(str(folder), dtype="float32")
    assert packed.packing == kind and packed.num_parameters == base.num_parameters
    bound = {"int8": 0.01, "nf4": 0.15}[kind]  # a normal weight's rounding: 1/127 of the row's largest; nf4: QLoRA, fig. 3 and after
    for (name, small), large in zip(packed.linears().items(), base.linears().values(), strict=True):
        distance = (small.weight - large.weight).norm() / large.weight.norm()
        assert 0 < distance < bound, name
        held = small.values.numel() * small.values.element_size()
        assert held == large.weight.numel() // {"int8": 1, "nf4": 2}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_merging_unpacks_and_answers_alike(folder, kind, tmp_path):
    model = load(str(folder), dtype=kind)
    method = adapted(model)
    before = states(model).detach()
    method.merge(model)
    torch.testing.assert_close(states(model).detach(), before, rtol=1e-4, atol=1e-5)
    save(model, tmp_path / "merged")
    torch.testing.assert_close(states(load(str(tmp_path / "merged"), dtype="float32")).detach(), before, rtol=1e-4, atol=1e-5)


def test_without_the_library_it_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.functional", None)
    with pytest.raises(MissingPart, match=r"nf4 needs bitsandbytes.*pip install 'luthier\[packed\]'.*int8") as caught:
        load(str(folder), dtype="nf4")
    assert caught.value.exit_code == 2
