"""A fused block computes what the block it stands for computes, forward and backward, whatever moves."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from luthier.methods import full, lora
from luthier.models import fused
from luthier.models.fused import FusedBlock
from luthier.models.joined import _adjacent
from luthier.models.sight import Sight
from luthier.models.slot import activate, place

SHARED, FIRST, SECOND, ALONE = 9, 5, 300, 4  # a node longer than one piece is among them
TYPES = ["llama", "mistral", "qwen2", "qwen3", "smollm3"]


@pytest.fixture(params=["compiled", "torch"])
def _kernels(request, monkeypatch):
    from luthier.models import kernels

    if request.param == "torch":
        monkeypatch.setattr(kernels, "_here", kernels._plain)


def forest():
    lengths = [SHARED, FIRST, SECOND, ALONE]
    total = sum(lengths)
    ends = [total - ALONE] * SHARED + [SHARED + FIRST] * FIRST + [total - ALONE] * SECOND + [total] * ALONE
    depths = [*range(SHARED), *range(SHARED, SHARED + FIRST), *range(SHARED, SHARED + SECOND), *range(ALONE)]
    return Sight(np.array(ends), np.array(depths)), torch.tensor(depths)


def shaken(model):
    """Norms and biases that would show if they were forgotten."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.network.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.data.add_(torch.rand(parameter.shape, generator=generator).to(parameter.dtype) - 0.3)
    return model


def run(model, *, plainly, monkeypatch):
    sight, positions_T = forest()
    tokens_T = torch.randint(3, 300, positions_T.shape, generator=torch.Generator().manual_seed(2))
    with monkeypatch.context() as patch:
        if plainly:
            patch.setattr(FusedBlock, "_fits", lambda *_: False)
        states = model.states(tokens_T=tokens_T, positions_T=positions_T, sight=sight)
        (states.float() ** 2).mean().backward()
    return states.detach(), {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}


def distances(found, wanted):
    """Relative distance of the states and of every gradient."""
    assert found[1].keys() == wanted[1].keys() and found[1]
    pairs = {"states": (found[0], wanted[0])} | {name: (found[1][name], g) for name, g in wanted[1].items()}
    return {name: ((a.float() - b.float()).norm() / b.float().norm().clamp(min=1e-9)).item() for name, (a, b) in pairs.items()}


def adapters(model):
    """Ranks that differ within one matmul, and a member without an adapter."""
    for rank, targets in ((3, ["q_proj", "up_proj"]), (5, ["v_proj", "gate_proj", "down_proj", "*.layers.1.self_attn.o_proj"])):
        method = lora.Method(lora.Options(rank=rank, targets=targets))
        method.attach(model, name="both")
    for delta in method.deltas(model).values():
        torch.nn.init.normal_(delta.B, std=0.2, generator=torch.Generator().manual_seed(4))
        delta.requires_grad_(True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", ["full", "lora"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.usefixtures("_kernels")
def test_equal_forward_and_backward(kind, what, dtype, tiny_model, monkeypatch):
    unturned = {"no_rope_layer_interval": 2} if kind == "smollm3" else {}
    model = shaken(tiny_model(model_type=kind, dtype=dtype, max_position_embeddings=512, **unturned))
    full.Method().attach(model) if what == "full" else adapters(model)
    twin, exact = (replace(model, network=copy.deepcopy(model.network)) for _ in range(2))
    for parameter in exact.network.parameters():
        parameter.data = parameter.data.float()
    assert all(isinstance(block, FusedBlock) for block in model.blocks())
    counted = []
    monkeypatch.setattr(fused, "_Call", lambda *given, make=fused._Call: counted.append(1) or make(*given))
    found = run(model, plainly=False, monkeypatch=monkeypatch)
    assert len(counted) == len(model.blocks()), "the fused path must be the one that ran"
    plain = run(twin, plainly=True, monkeypatch=monkeypatch)
    if dtype == "float32":
        assert max(distances(found, plain).values()) < 2e-5
    else:
        true = distances(plain, wanted := run(exact, plainly=True, monkeypatch=monkeypatch))
        off = {name: far for name, far in distances(found, wanted).items() if far > 1.6 * true[name] + 0.01}
        assert not off, "rounding may not take the fused block further from the truth than the plain one"


def test_names_and_weights_stay(tiny_model):
    model = tiny_model()
    assert "model.layers.0.self_attn.q_proj.weight" in model.network.state_dict()
    assert len(list(model.network.parameters())) == len({id(p) for p in model.network.parameters()})
    attention = model.blocks()[0].self_attn
    assert _adjacent([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])


def test_a_weight_that_was_moved_still_counts(tiny_model):
    """A merge gives a linear a weight of its own: the group is put together again, not read from the old place."""
    model = tiny_model()
    sight, positions_T = forest()
    tokens_T = torch.arange(len(positions_T)) % 300
    with torch.no_grad():
        before = model.states(tokens_T=tokens_T, positions_T=positions_T, sight=sight)
        weight = model.blocks()[0].self_attn.k_proj.weight
        weight.data = weight.data * 1.5
        after = model.states(tokens_T=tokens_T, positions_T=positions_T, sight=sight)
    assert not torch.allclose(before, after)


def test_a_sliding_window_that_bites_is_left_to_the_plain_block(tiny_model):
    model = tiny_model(model_type="mistral", sliding_window=16, max_position_embeddings=512)
    sight, positions_T = forest()
    x_TD = torch.zeros(len(positions_T), 32)
    assert not model.blocks()[0]._fits(x_TD, sight)


@pytest.mark.usefixtures("_kernels")
def test_a_young_adapter_is_not_rounded_away(tiny_model, monkeypatch):
    """In bf16 a delta far smaller than the stream of states must still change the output as much as it does in the plain block."""
    moved = {}
    for plainly in (False, True):
        model = tiny_model(dtype="bfloat16", max_position_embeddings=512)
        model.embedding().weight.data.mul_(100)
        method = lora.Method(lora.Options(rank=8, targets=["o_proj", "down_proj"]))
        method.attach(model)
        answers = []
        for size in (0.0, 0.02):
            for delta in method.deltas(model).values():
                torch.nn.init.normal_(delta.B, std=size, generator=torch.Generator().manual_seed(3))
            answers.append(run(model, plainly=plainly, monkeypatch=monkeypatch)[0].float())
        moved[plainly] = (answers[1] - answers[0]).norm()
    assert moved[True] > 0
    assert 0.8 < moved[False] / moved[True] < 1.25


class _Louder(torch.nn.Module):
    def forward(self, x, base):
        return 3.0 * base(x)


@pytest.mark.parametrize("part", ["mlp", "self_attn.o_proj"])
def test_what_a_slot_hosts_is_never_passed_over(part, tiny_model, monkeypatch):
    """A slot around a whole part of a block, or a delta that is not low-rank, must change the answer."""
    model = tiny_model(max_position_embeddings=512)
    sight, positions_T = forest()
    tokens_T = torch.arange(len(positions_T)) % 300
    with torch.no_grad():
        before = model.states(tokens_T=tokens_T, positions_T=positions_T, sight=sight)
        place(model.network, f"model.layers.0.{part}").host("loud", _Louder())
        activate(model.network, "loud")
        after = model.states(tokens_T=tokens_T, positions_T=positions_T, sight=sight)
        monkeypatch.setattr(FusedBlock, "_fits", lambda *_: False)
        plainly = model.states(tokens_T=tokens_T, positions_T=positions_T, sight=sight)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, plainly, rtol=1e-4, atol=1e-5)
