"""Every method that PEFT has too: the same outputs and the same gradients from the same weights, and files that go both ways."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn

from luthier.core.errors import ModelError
from luthier.methods import ia3, lora, prefix, prompt
from luthier.models.sight import Sight

TOKENS_T = torch.tensor([5, 9, 77, 31, 8, 250, 4, 64, 12, 90])
Make = Callable[..., Any]

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning",  # peft asks transformers by the old name
    "ignore:fan_in_fan_out is set to:UserWarning",  # peft corrects its own default for GPT-2
)

GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "num_key_value_heads": 4}
BASES = {"llama": {}, "qwen2": {"model_type": "qwen2"}, "gpt2": GPT2}


def logits(model: Any) -> Tensor:
    length = len(TOKENS_T)
    sight = Sight(np.full(length, length), np.arange(length))
    return model.head()(model.states(tokens_T=TOKENS_T, positions_T=torch.arange(length), sight=sight))


def plain_network(model: Any) -> nn.Module:
    """The base as transformers itself runs it."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_config(deepcopy(model.config), attn_implementation="eager").eval()
    network.load_state_dict(model.network.state_dict())
    return network


def shaken(parameters: Any, *, size: float = 0.1) -> None:
    """Values that would show if they were forgotten."""
    generator = torch.Generator().manual_seed(1)
    for p in parameters:
        p.data.add_(torch.randn(p.shape, generator=generator) * size)


def loss_of(scores_TV: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(scores_TV[:-1], TOKENS_T[1:])


def theirs_and_ours(base: str, config: Any, kind: Any, make: Make, folder: Path) -> tuple[Any, Any, Any]:
    """PEFT's model with shaken weights, ours with its file loaded."""
    model = make(**BASES[base])
    theirs = get_peft_model(plain_network(model), config).eval()
    shaken(p for p in theirs.parameters() if p.requires_grad)
    theirs.save_pretrained(str(folder / "theirs"))
    return theirs, model, kind.Method.load(model, folder / "theirs")


def gradients(theirs: Any) -> dict[str, Tensor]:
    return {name.removeprefix("base_model.model."): p.grad for name, p in theirs.named_parameters() if p.grad is not None}


def close(found: Tensor, wanted: Tensor, what: str = "") -> None:
    assert (found - wanted).norm() <= 1e-4 * wanted.norm() + 1e-7, what


LORAS = {
    "plain": {"r": 4},
    "rslora": {"r": 4, "use_rslora": True},
    "dora": {"r": 4, "use_dora": True},
    "ranks": {"r": 4, "rank_pattern": {"k_proj|c_attn": 2}, "alpha_pattern": {"k_proj|c_attn": 5}},
}


@pytest.mark.parametrize("variant", LORAS)
@pytest.mark.parametrize("base", BASES)
def test_lora_and_its_relatives(base: str, variant: str, tiny_model: Make, tmp_path: Path) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", lora_alpha=6, **LORAS[variant])
    theirs, model, method = theirs_and_ours(base, config, lora, tiny_model, tmp_path)
    wanted = theirs(TOKENS_T[None]).logits[0]
    close(logits(model), wanted)
    loss_of(wanted).backward()
    loss_of(logits(model)).backward()
    expected = {
        name.replace(".default", "").replace("magnitude_vector.weight", "magnitude_vector"): g for name, g in gradients(theirs).items()
    }
    ours = {name: p.grad for group in method.groups(model) for name, p in group.parameters}
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        close(gradient, expected[name], name)
    method.save(model, tmp_path / "ours")
    again = PeftModel.from_pretrained(plain_network(tiny_model(**BASES[base])), str(tmp_path / "ours")).eval()
    close(again(TOKENS_T[None]).logits[0], wanted)


@pytest.mark.parametrize("base", BASES)
def test_dora_drops_what_peft_drops(base: str, tiny_model: Make, tmp_path: Path) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4, use_dora=True, lora_dropout=0.4)
    theirs, model, _ = theirs_and_ours(base, config, lora, tiny_model, tmp_path)
    with pytest.MonkeyPatch.context() as patch:  # a dropout both can agree on
        patch.setattr(torch.nn.functional, "dropout", lambda x, p=0.5, training=True, inplace=False: x * 0.75 if training and p else x)
        theirs.train()
        model.network.train()
        close(logits(model), theirs(TOKENS_T[None]).logits[0])


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("base", BASES)
def test_pissa_begins_as_peft_does_and_learns_alike(base: str, rslora: bool, tiny_model: Make, tmp_path: Path) -> None:
    """PEFT takes the strongest directions out of the weight; ours leaves it, and subtracts them beside it: the same function."""
    model = tiny_model(**BASES[base])
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4, lora_alpha=6, init_lora_weights="pissa", use_rslora=rslora)
    theirs = get_peft_model(plain_network(model), config).eval()
    method = lora.Method(lora.Options(rank=4, alpha=6, begin="pissa", rslora=rslora))
    method.attach(model)
    ours = {name: p for group in method.groups(model) for name, p in group.parameters}
    for name, p in theirs.named_parameters():
        if p.requires_grad:  # singular vectors are known up to a sign
            mine = ours[name.removeprefix("base_model.model.").replace(".default", "")]
            close(mine.abs(), p.abs(), name)
            mine.data.copy_(p.data + (0.05 * torch.ones_like(p)))
            p.data.add_(0.05)
    found, wanted = logits(model), theirs(TOKENS_T[None]).logits[0]
    close(found, wanted)
    loss_of(found).backward()
    loss_of(wanted).backward()
    for name, gradient in gradients(theirs).items():
        close(ours[name.replace(".default", "")].grad, gradient, name)  # type: ignore[arg-type]
    method.save(model, tmp_path / "ours")
    again = PeftModel.from_pretrained(plain_network(tiny_model(**BASES[base])), str(tmp_path / "ours")).eval()
    close(again(TOKENS_T[None]).logits[0], wanted)


@pytest.mark.parametrize("base", BASES)
def test_ia3(base: str, tiny_model: Make, tmp_path: Path) -> None:
    config = IA3Config(task_type="CAUSAL_LM")
    theirs, model, method = theirs_and_ours(base, config, ia3, tiny_model, tmp_path)
    wanted = theirs(TOKENS_T[None]).logits[0]
    close(logits(model), wanted)
    loss_of(wanted).backward()
    loss_of(logits(model)).backward()
    expected = {name.replace(".default", ""): g.flatten() for name, g in gradients(theirs).items()}
    ours = {name: p.grad for group in method.groups(model) for name, p in group.parameters}
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        close(gradient, expected[name], name)
    method.save(model, tmp_path / "ours")
    again = PeftModel.from_pretrained(plain_network(tiny_model(**BASES[base])), str(tmp_path / "ours")).eval()
    close(again(TOKENS_T[None]).logits[0], wanted)
    close(merged(again), merged_ours(method, model))


def merged(theirs: Any) -> Tensor:
    return theirs.merge_and_unload()(TOKENS_T[None]).logits[0]


def merged_ours(method: Any, model: Any) -> Tensor:
    method.merge(model)
    return logits(model)


def test_ia3_stretches_what_the_paper_stretches(tiny_model: Make) -> None:
    for base, wanted in {"llama": {"k_proj", "v_proj", "down_proj"}, "gpt2": {"c_attn", "c_proj"}}.items():
        model = tiny_model(**BASES[base])
        method = ia3.Method()
        method.attach(model)
        assert {path.rpartition(".")[2] for path in method.deltas(model)} == wanted
        assert {path.split(".")[-2] for path, delta in method.deltas(model).items() if delta.inputs} == {"mlp"}


@pytest.mark.parametrize("base", BASES)
def test_prompt_tuning(base: str, tiny_model: Make, tmp_path: Path) -> None:
    theirs, model, method = theirs_and_ours(
        base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6), prompt, tiny_model, tmp_path
    )
    check_lead(theirs, model, method, tmp_path, tiny_model, base)


@pytest.mark.parametrize("base", BASES)
def test_prefix_tuning(base: str, tiny_model: Make, tmp_path: Path) -> None:
    theirs, model, method = theirs_and_ours(
        base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6), prefix, tiny_model, tmp_path
    )
    check_lead(theirs, model, method, tmp_path, tiny_model, base)


def check_lead(theirs: Any, model: Any, method: Any, folder: Path, make: Make, base: str) -> None:
    wanted = theirs(TOKENS_T[None]).logits[0][-len(TOKENS_T) :]
    close(logits(model), wanted)
    loss_of(wanted).backward()
    loss_of(logits(model)).backward()
    (expected,) = gradients(theirs).values()
    ((_, ours),) = method.groups(model)[0].parameters
    close(ours.grad, expected)
    method.save(model, folder / "ours")
    again = PeftModel.from_pretrained(plain_network(make(**BASES[base])), str(folder / "ours")).eval()
    close(again(TOKENS_T[None]).logits[0][-len(TOKENS_T) :], wanted)


def test_a_projected_prefix_is_peft_s_encoder(tiny_model: Make) -> None:
    from peft.tuners.prefix_tuning import PrefixEncoder

    model = tiny_model()
    method = prefix.Method(prefix.Options(tokens=5, projection=12))
    method.attach(model, seed=2)
    delta = method._delta(model)
    layers, heads, width = delta.shape
    config = PrefixTuningConfig(
        num_virtual_tokens=5,
        token_dim=heads * width,
        num_layers=layers,
        num_attention_heads=heads,
        encoder_hidden_size=12,
        prefix_projection=True,
    )
    encoder = PrefixEncoder(config)
    names = {"embedding.weight": delta.E, **{f"transform.{name}": p for name, p in delta.project.named_parameters()}}
    assert names.keys() == encoder.state_dict().keys()
    encoder.load_state_dict(names)
    close(delta.rows(), encoder(torch.arange(5)))


@pytest.mark.parametrize("kind", [prompt, prefix], ids=["prompt", "prefix"])
def test_a_lead_of_another_shape_is_refused(kind: Any, tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model()
    method = kind.Method(kind.Options(tokens=4))
    method.attach(model)
    method.save(model, tmp_path / "adapter")
    other = tiny_model(hidden_size=64, head_dim=16)
    with pytest.raises(ModelError, match=r"Its rows are \[4, \d+\], tiny wants \[tokens, \d+\]"):
        kind.Method.load(other, tmp_path / "adapter")
    with pytest.raises(ModelError, match="not an adapter of kind LORA"):
        lora.Method.load(tiny_model(), tmp_path / "adapter")
