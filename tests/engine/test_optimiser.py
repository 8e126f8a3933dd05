"""AdamW in chunks, in bytes, and during backward: each against the plain way."""

import itertools

import pytest
import torch
from torch import nn

from luthier.core.errors import ResultError
from luthier.core.example import Example
from luthier.core.sequence import Row
from luthier.core.spec import TrainSpec
from luthier.data.read import read
from luthier.engine.ahead import planned
from luthier.engine.flat import Flat, Scratch
from luthier.engine.moments import BLOCK, Packed, levels
from luthier.engine.optimiser import Optimiser
from luthier.engine.session import Session
from luthier.methods import full, lora
from luthier.methods._groups import ParameterGroup
from luthier.models.kernels import kernels
from luthier.models.load import load_folder
from luthier.objectives import sft

TRAIN = TrainSpec(epochs=3, rows_per_step=6, learning_rate=3e-3, weight_decay=0.1, warmup=0, schedule="constant", clip=1e6)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def session(model, rows, method=None, **changes):
    method = method or full.Method()
    method.attach(model, seed=1)
    return Session(model, method, sft.Objective(), rows=rows, train=TRAIN.model_copy(update=changes))


def weights(engine):
    return {name: p.detach().clone() for name, p in engine.model.network.named_parameters()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


# --- 8 bits ------------------------------------------------------------------


@pytest.mark.parametrize("signed", [True, False])
def test_a_byte_says_256_different_numbers_and_exactly_zero_and_one(signed):
    found = levels(signed=signed)
    assert len(found) == len(found.unique()) == 256
    assert (found.diff() > 0).all()
    assert {0.0, 1.0} <= set(found.tolist())
    assert found[found > 0].min() == pytest.approx(5.5e-7 if signed else 3.25e-7, rel=1e-3)


@pytest.mark.parametrize("signed", [True, False])
def test_packing_errs_by_half_a_gap_between_levels(signed):
    values = normal(64 * BLOCK) * 10 ** (normal(64 * BLOCK, seed=1) - 3)
    values = values if signed else values.abs()
    values.view(-1, BLOCK)[:, 0] = values.view(-1, BLOCK).abs().amax(1)  # the largest of a block is positive: its byte is exact
    packed, found = Packed.zeros(len(values), signed=signed, device=values.device), torch.empty_like(values)
    packed.write(0, values.clone())
    packed.read(0, found)
    scales = values.view(-1, BLOCK).abs().amax(1, keepdim=True)
    quotients = (values.view(-1, BLOCK) / scales).contiguous()
    numbers = levels(signed=signed)
    above = torch.searchsorted(numbers, quotients).clamp(1, 255)
    gap = numbers[above] - numbers[above - 1]
    error = (found.view(-1, BLOCK) / scales - quotients).abs()
    assert (error <= gap / 2 + quotients.abs() / 256 + 1e-9).all()
    again = found.clone()
    packed.write(0, again)
    packed.read(0, again)
    assert torch.equal(again, found), "what a byte can say comes back as it is"


@pytest.mark.parametrize("gradients", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernel_does_what_the_pieces_do(monkeypatch, dtype, gradients):
    """A size that is no multiple of a block, small and large gradients, several steps; all but a few bytes at a border between levels."""
    if kernels(torch.zeros(1)).name == "torch":
        pytest.skip("no compiler on this machine")
    if dtype == torch.float32 and gradients == torch.bfloat16:
        pytest.skip("gradients are never narrower than weights")
    found = []
    for kernel in (True, False):
        with monkeypatch.context() as here:
            if not kernel:
                here.setattr(Flat, "_update_bytes", lambda *_, **__: False)
            p = nn.Parameter(normal(7 * BLOCK + 31).to(dtype))
            flat = Flat(ParameterGroup("g", [("p", p)]), 0.1, lean=True, scratch=Scratch())
            for step in range(4):
                flat.ready()
                flat.count += 1
                gradient = (normal(len(p), seed=step) * 10 ** (normal(len(p), seed=step + 9) - 3)).to(gradients)
                flat.update(gradient, p, rate=1e-2, beta2=0.99, divisor=torch.tensor(1.5))
            found.append((p.detach().float(), flat.lower, flat.state()))
    (mine, lower, state), (wanted, _, expected) = found
    assert torch.allclose(mine, wanted, rtol=2e-3 if dtype == torch.float32 else 2**-8, atol=3e-5)
    for name in ("exp_avg.codes", "exp_avg_sq.codes"):
        assert (state[name] == expected[name]).float().mean() > 0.99
        assert torch.allclose(state[name.replace("codes", "scales")], expected[name.replace("codes", "scales")], rtol=1e-2)
    assert (lower is not None) == (dtype == torch.bfloat16)


def test_packing_a_part_leaves_the_rest_alone():
    packed, found = Packed.zeros(3 * BLOCK, signed=True, device=torch.device("cpu")), torch.ones(3 * BLOCK)
    packed.write(BLOCK, torch.full((BLOCK,), 2.0))
    packed.read(0, found)
    assert found.view(3, BLOCK).unique(dim=1).tolist() == [[0], [2], [0]]


# --- the plain way, in chunks ------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updates_equal_torchs_adamw(monkeypatch, dtype):
    """Several chunks a tensor, clipping, decay, two groups at different rates."""
    monkeypatch.setattr("luthier.engine.flat.CHUNK", 2 * BLOCK)
    shapes = [(40, 37), (7,), (512,)]
    mine = [nn.Parameter(normal(*s, seed=i).to(dtype)) for i, s in enumerate(shapes)]
    named = [(str(i), p) for i, p in enumerate(mine)]
    optimiser = Optimiser([ParameterGroup("a", named[:2], decay=True), ParameterGroup("b", named[2:], rate=4.0)], TRAIN)
    theirs = [nn.Parameter(p.detach().clone().float()) for p in mine]
    parts = [{"params": theirs[:2], "weight_decay": 0.1}, {"params": theirs[2:], "weight_decay": 0.0, "lr": 4 * 3e-3}]
    wanted = torch.optim.AdamW(parts, lr=3e-3, betas=(0.9, TRAIN.beta2), eps=1e-8)
    for step in range(4):
        given = [normal(*s, seed=10 * step + i).to(dtype) for i, s in enumerate(shapes)]
        sum((p * g).sum() for p, g in zip(mine, given, strict=True)).backward()
        optimiser.step(1.0, norm=optimiser.norm(), clip=2.0)
        for p, g in zip(theirs, given, strict=True):
            p.grad = g.float()
        torch.nn.utils.clip_grad_norm_(theirs, 2.0)
        wanted.step()
    for p, q in zip(mine, theirs, strict=True):
        assert torch.allclose(p.float(), q, rtol=1e-5 if dtype == torch.float32 else 2**-8, atol=1e-6)
        assert dtype == torch.float32 or (p == q.to(dtype)).float().mean() > 0.995, "all but ties between two bf16 numbers"


def test_a_weight_and_its_lower_half_are_the_master_bit_for_bit():
    """The rest that a bf16 weight leaves out, ties and both signs included."""
    bits = torch.cat([torch.arange(0x3F7F7000, 0x3F809000), torch.tensor([0, 0x00018000, 0x7F000000])])
    numbers = torch.cat([bits.int().view(torch.float32), -bits.int().view(torch.float32)])
    p = nn.Parameter(torch.zeros(len(numbers), dtype=torch.bfloat16))
    flat, everything = Flat(ParameterGroup("g", [("p", p)]), 0.0, lean=True, scratch=Scratch()), slice(0, len(numbers))
    flat._publish(everything, p.data, numbers.clone())
    assert torch.equal(flat._master(everything, p.data).view(torch.int32), numbers.view(torch.int32))
    assert torch.equal(p.data, ((numbers.view(torch.int32) + 0x8000) >> 16).to(torch.int16).view(torch.bfloat16))


def test_several_forests_are_added_up_in_fp32(tiny_model, bushy_rows):
    rows = bushy_rows(count=12)
    one = session(tiny_model(dtype="bfloat16"), rows, tokens_per_pack=100_000)
    several = session(tiny_model(dtype="bfloat16"), rows, tokens_per_pack=60)
    one.gradient(planned(rows, one.step_budget))
    several.gradient(planned(rows, several.step_budget))
    assert all(p.grad is None for p in several.model.network.parameters())
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in one.model.network.parameters())
    for together, apart in zip(one.optimiser.gradients(), several.optimiser.gradients(), strict=True):
        assert apart.dtype == torch.float32
        assert (together - apart).norm() < 0.03 * together.norm()


def test_a_rehearsal_that_is_still_alive_takes_no_gradient(tiny_model, bushy_rows):
    rows, model = bushy_rows(count=12), tiny_model(dtype="bfloat16")
    alone = session(tiny_model(dtype="bfloat16"), rows, tokens_per_pack=60)
    alone.gradient(planned(rows, alone.step_budget))
    rehearsed = session(model, rows, tokens_per_pack=60)
    rehearsed.gradient(planned(rows, rehearsed.step_budget))
    engine = session(model, rows, tokens_per_pack=60)
    engine.gradient(planned(rows, engine.step_budget))
    for found, wanted in zip(engine.optimiser.gradients(), alone.optimiser.gradients(), strict=True):
        assert torch.equal(found, wanted)


# --- during backward -----------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("changes", [{}, {"model_type": "qwen3", "tie_word_embeddings": True}], ids=["llama", "qwen3-tied"])
def test_layerwise_is_the_step_with_bytes_where_nothing_is_clipped(tiny_model, bushy_rows, dtype, changes):
    rows = bushy_rows()
    plain = session(tiny_model(dtype=dtype, **changes), rows, optimiser="adamw8bit", tokens_per_pack=100_000)
    layerwise = session(tiny_model(dtype=dtype, **changes), rows, optimiser="layerwise", tokens_per_pack=40)
    for _ in range(3):
        wanted, found = plain.advance(), layerwise.advance()
        assert found.loss == wanted.loss
        assert found.gradient_norm == pytest.approx(wanted.gradient_norm, rel=1e-5)
        assert same(weights(plain), weights(layerwise))
        assert all(p.grad is None for p in layerwise.model.network.parameters())


def test_layerwise_clips_each_gradient_by_its_own_length(tiny_model, bushy_rows):
    rows, clip = bushy_rows(), 1e-9  # below AdamW's epsilon, so that clipping shows in the step
    free, held = (session(tiny_model(), rows, optimiser="layerwise", weight_decay=0.0, clip=c) for c in (1e6, clip))
    before = weights(held)
    free.advance()
    held.advance()
    for name, now in weights(held).items():
        moved, freely = (now - before[name]).norm(), (weights(free)[name] - before[name]).norm()
        assert 0 < moved < 0.2 * freely, name


def test_layerwise_without_a_step_drops_gradients_and_changes_nothing(tiny_model, bushy_rows):
    engine = session(tiny_model(), bushy_rows(), optimiser="layerwise")
    before = weights(engine)
    engine.gradient(planned(bushy_rows(), engine.step_budget))
    assert same(before, weights(engine))
    assert all(p.grad is None for p in engine.model.network.parameters())


def test_layerwise_says_that_part_was_updated_when_a_gradient_is_not_finite(tiny_model, bushy_rows):
    engine = session(tiny_model(), bushy_rows(), optimiser="layerwise")
    first = engine.model.blocks()[0].mlp.up_proj.weight
    first.register_hook(lambda gradient: gradient * float("nan"))
    before = first.detach().clone()
    with pytest.raises(ResultError, match="gradient's length nan; part of the weights was updated"):
        engine.advance()
    assert torch.equal(first, before)


def test_a_second_session_over_the_same_weights_does_not_hear_the_first(tiny_model, bushy_rows):
    import gc
    import weakref

    model = tiny_model(dtype="bfloat16")
    first = session(model, bushy_rows(), optimiser="layerwise")
    gone = weakref.ref(first.optimiser)
    del first
    gc.collect()
    assert gone() is None
    assert not any(p._post_accumulate_grad_hooks for p in model.network.parameters())


# --- against fp32, on a real model -----------------------------------------------


def test_bytes_follow_fp32_on_a_real_model(shared):
    model = load_folder(shared / "models/stories260k", dtype="float32")
    examples = (e for e in read(shared / "data/ft_llamafactory/alpaca_en_demo.json") if isinstance(e, Example))
    rendered = (Row(e.source, model.renderer.render(e)) for e in examples)
    rows = list(itertools.islice((row for row in rendered if sum(len(s.tokens) for s in row.sequences) <= 200), 24))
    curves = []
    for optimiser in ("adamw", "adamw8bit"):
        model = load_folder(shared / "models/stories260k", dtype="float32")
        engine = session(model, rows, optimiser=optimiser, epochs=10, learning_rate=1e-3, clip=1.0, weight_decay=0.0)
        curves.append(torch.tensor([engine.advance().loss for _ in range(engine.steps)]))
    fell = curves[0][:4].mean() - curves[0][-4:].mean()
    assert fell > 1, "it learns"
    assert (curves[0] - curves[1]).abs().max() < 0.05 * fell


# --- groups --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit", "layerwise"])
def test_a_group_takes_no_more_than_its_most(kind):
    free, held = (nn.Parameter(torch.zeros(600)) for _ in range(2))
    groups = [ParameterGroup("free", [("free", free)]), ParameterGroup("held", [("held", held)], rate=2.0, most=0.01)]
    optimiser = Optimiser(groups, TRAIN.model_copy(update={"learning_rate": 0.1, "optimiser": kind, "weight_decay": 0.0}))
    optimiser.begin(0.5, clip=1e9)
    (free.sum() + held.sum()).backward()
    optimiser.step(0.5, norm=optimiser.norm(), clip=1e9)
    assert torch.allclose(free, torch.full_like(free, -0.1 * 0.5), rtol=1e-3), "AdamW's first step is the rate"
    assert torch.allclose(held, torch.full_like(held, -0.01 * 0.5), rtol=1e-3)


# --- recomputing -------------------------------------------------------------------


@pytest.mark.parametrize("method", [lambda: full.Method(), lambda: lora.Method(lora.Options(rank=4, dropout=0.2))], ids=["full", "lora"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_recomputing_changes_no_gradient(tiny_model, bushy_rows, method, model_type):
    rows, found = bushy_rows(), []
    for again in (False, True):
        engine = session(tiny_model(model_type=model_type), rows, method(), recompute=again, tokens_per_pack=130)
        engine.model.network.train()
        torch.manual_seed(4)
        loss, _ = engine.gradient(planned(rows, engine.step_budget))
        found.append((loss, engine.optimiser.gradients()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_recomputing_keeps_one_state_a_block(tiny_model, bushy_rows):
    held = []
    for again in (False, True, False):
        engine = session(tiny_model(), bushy_rows(), recompute=again)
        sizes: dict[int, int] = {}

        def keep(tensor, sizes=sizes):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            engine.model.network.train()
            engine.gradient(planned(bushy_rows(), engine.step_budget))
        held.append(sum(sizes.values()))
    assert held[1] < 0.6 * held[0]
    assert held[2] == held[0], "it can be switched off again"
