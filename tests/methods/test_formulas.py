"""Methods that PEFT has not, against their papers' formulas written out; and what their settings mean."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from luthier.core.errors import ModelError, SpecError
from luthier.core.spec import TrainSpec
from luthier.engine.session import Session
from luthier.methods import bitfit, bottleneck, full, prefix, prompt
from luthier.models.lead import memories_of
from luthier.models.sight import Sight
from luthier.objectives import sft

TOKENS_T = torch.tensor([5, 9, 77, 31, 8, 250, 4, 64, 12, 90])
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1}
Make = Callable[..., Any]


def logits(model: Any, tokens_T: Tensor = TOKENS_T) -> Tensor:
    length = len(tokens_T)
    sight = Sight(np.full(length, length), np.arange(length))
    return model.head()(model.states(tokens_T=tokens_T, positions_T=torch.arange(length), sight=sight))


def shaken(parameters: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    for p in parameters:
        p.data.add_(torch.randn(p.shape, generator=generator) * 0.1)


@pytest.mark.parametrize(("placement", "behind"), [("houlsby", {"o_proj", "down_proj"}), ("pfeiffer", {"down_proj"})])
def test_a_bottleneck_bends_what_a_part_hands_on(placement: Any, behind: set[str], tiny_model: Make) -> None:
    model, plain = tiny_model(), tiny_model()
    method = bottleneck.Method(bottleneck.Options(width=6, placement=placement))
    method.attach(model)
    deltas = method.deltas(model)
    assert {path.rpartition(".")[2] for path in deltas} == behind
    shaken(p for delta in deltas.values() for p in delta.parameters())
    twins = {path: deepcopy(delta) for path, delta in deltas.items()}
    for path, linear in plain.linears().items():
        if path in twins:
            linear.register_forward_hook(lambda _, __, h, d=twins[path]: h + torch.relu(h @ d.down.T + d.down_bias) @ d.up.T + d.up_bias)
    model.network.train()
    plain.network.train()
    for block in plain.blocks():
        block._fits = lambda *_: False  # hooks run in the plain form
    found, wanted = logits(model), logits(plain)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    found.square().mean().backward()
    wanted.square().mean().backward()
    for path, delta in deltas.items():
        for (name, p), twin in zip(delta.named_parameters(), twins[path].parameters(), strict=True):
            torch.testing.assert_close(p.grad, twin.grad, rtol=1e-3, atol=1e-6, msg=f"{path}.{name}")


def test_bitfit_is_moving_the_biases(tiny_model: Make) -> None:
    """Outputs and gradients equal those of full tuning in which everything but the biases is frozen."""
    model, plain = tiny_model(**GPT2), tiny_model(**GPT2)
    method = bitfit.Method()
    method.attach(model)
    shaken(delta.change for delta in method.deltas(model).values())
    own = {name: p for name, p in plain.network.named_parameters() if name.endswith(".bias")}
    changes = {f"{path}.bias": delta.change for path, delta in method.deltas(model).items()}
    assert own.keys() == changes.keys()
    for name, bias in own.items():
        bias.data.add_(changes[name].detach())
        bias.requires_grad_(True)
    found, wanted = logits(model), logits(plain)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    found.square().mean().backward()
    wanted.square().mean().backward()
    for name, bias in own.items():
        torch.testing.assert_close(changes[name].grad, bias.grad, rtol=1e-3, atol=1e-7, msg=name)


def test_bitfit_says_where_there_is_nothing_to_move_or_to_merge_into(tiny_model: Make) -> None:
    with pytest.raises(SpecError, match=r"tiny has no biases.*method\.added=true.*ia3"):
        bitfit.Method().attach(tiny_model())
    model = tiny_model()
    method = bitfit.Method(bitfit.Options(added=True))
    method.attach(model)
    with pytest.raises(ModelError, match=r"The bias learned for model\.layers\.0\.\S+ has no place"):
        method.merge(model)
    assert "merge" not in method.supports


@pytest.mark.parametrize("kind", [prompt, prefix], ids=["prompt", "prefix"])
def test_a_lead_that_begins_as_text_reads_as_if_the_text_stood_there(kind: Any, tiny_model: Make) -> None:
    """Vectors are the text's embedding, keys and values are the text's own: before the first step nothing tells them from the text."""
    model = tiny_model()
    text = torch.tensor(model.renderer.encode("Be brief. "))
    wanted = logits(model, torch.cat([text, TOKENS_T]))[len(text) :]
    method = kind.Method(kind.Options(tokens=len(text), begin="Be brief. "))
    method.attach(model)
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, GPT2, {"model_type": "mistral", "sliding_window": 8}], ids=["llama", "gpt2", "window"])
def test_a_prompt_s_vectors_and_its_keys_and_values_are_one(changes: Any, tiny_model: Make) -> None:
    """Training lays vectors, answering lays what they leave in every layer."""
    from luthier.models.lead import Led

    model = tiny_model(**changes)
    method = prompt.Method(prompt.Options(tokens=4))
    method.attach(model)
    delta, length = method._delta(model), len(TOKENS_T)
    shaken([delta.P])
    sight = Sight(np.full(length, length), np.arange(length))
    led = Led(sight, memories_of(model, vectors_VD=delta.P))
    states = model.family.states(model.network, tokens_T=TOKENS_T, positions_T=torch.arange(length) + 4, sight=led)
    torch.testing.assert_close(model.head()(states), logits(model), rtol=1e-4, atol=1e-5)


def test_rows_get_what_a_lead_leaves_of_the_context(tiny_model: Make) -> None:
    model = tiny_model()
    prompt.Method(prompt.Options(tokens=30)).attach(model)
    assert model.context == 98
    prefix.Method(prefix.Options(tokens=10)).attach(model, name="other")
    assert model.context == 98, "both have room"
    with pytest.raises(SpecError, match=r"method.tokens = 128, but the model reads 128 tokens"):
        prompt.Method(prompt.Options(tokens=128)).attach(tiny_model())


RATES = {"embedding_rate": 0.5, "head_rate": 3.0, "block_decay": 0.5}


def test_parts_learn_at_their_own_rates(tiny_model: Make) -> None:
    model = tiny_model()
    method = full.Method(full.Options(**RATES))
    method.attach(model)
    rates = {name: group.rate for group in method.groups(model) for name, _ in group.parameters}
    assert rates["model.embed_tokens.weight"] == 0.5 * 0.5**2
    assert rates["model.layers.0.mlp.up_proj.weight"] == rates["model.layers.0.input_layernorm.weight"] == 0.5
    assert rates["model.layers.1.mlp.up_proj.weight"] == 1.0
    assert rates["lm_head.weight"] == rates["model.norm.weight"] == 3.0
    assert {group.name: group.decay for group in method.groups(model)}["full.head.vectors"] is False


def test_a_tied_head_learns_as_the_embedding(tiny_model: Make) -> None:
    model = tiny_model(tie_word_embeddings=True)
    method = full.Method(full.Options(**RATES))
    method.attach(model)
    rates = {name: group.rate for group in method.groups(model) for name, _ in group.parameters}
    assert rates["model.embed_tokens.weight"] == 0.125
    assert "lm_head.weight" not in rates


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_thaw_from_the_last_to_the_first(dtype: str, tiny_model: Make, rows: Any) -> None:
    """Half of eight steps, two blocks: the first block moves after a quarter of the run, the embedding after a half."""
    model = tiny_model(dtype=dtype)
    method = full.Method(full.Options(unfreeze=0.5))
    method.attach(model)
    train = TrainSpec(epochs=8, rows_per_step=8, learning_rate=0.01, schedule="constant", warmup=0, weight_decay=0.1)
    session = Session(model, method, sft.Objective(), rows=rows, train=train)
    assert session.steps == 8
    named = dict(model.network.named_parameters())
    watched = {
        "model.embed_tokens.weight": 4,
        "model.layers.0.mlp.up_proj.weight": 2,
        "model.layers.1.mlp.up_proj.weight": 0,
        "lm_head.weight": 0,
    }
    for step in range(8):
        before = {name: named[name].detach().clone() for name in watched}
        session.advance()
        for name, begins in watched.items():
            assert torch.equal(named[name], before[name]) == (step < begins), f"{name} in step {step}"
