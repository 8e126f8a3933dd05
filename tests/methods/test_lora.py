"""LoRA in particular: the fused form, its start, its settings, and PEFT as the oracle for what is on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luthier.core.errors import ModelError, SpecError
from luthier.methods._lowrank import LowRank
from luthier.methods.lora import Method, Options
from luthier.models.sight import Sight
from luthier.models.slot import slots

TOKENS_T = torch.tensor([5, 9, 77, 31, 8, 250, 4, 64, 12, 90])
Make = Callable[..., Any]


def logits(model: Any) -> Tensor:
    length = len(TOKENS_T)
    sight = Sight(np.full(length, length), np.arange(length))
    return model.head()(model.states(tokens_T=TOKENS_T, positions_T=torch.arange(length), sight=sight)).detach()


def tuned(model: Any, **options: Any) -> Method:
    """An adapter that says something: its second matrix is not zero."""
    method = Method(Options(**options))
    method.attach(model, seed=3)
    torch.manual_seed(1)
    for delta in method.deltas(model).values():
        nn.init.normal_(delta.B, std=0.1)
    return method


def plain_network(model: Any) -> nn.Module:
    """The base as transformers itself runs it."""
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_config(deepcopy(model.config), attn_implementation="eager").eval()
    network.load_state_dict(model.network.state_dict())
    return network


def linear_with_delta(*, bias: bool, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, LowRank]:
    torch.manual_seed(0)
    base = nn.Linear(24, 40, bias=bias).to(dtype).requires_grad_(False)
    delta = LowRank(base, rank=4, alpha=12)
    delta.begin(seed=0, path="x")
    nn.init.normal_(delta.B)
    return base, delta


@pytest.mark.parametrize("bias", [False, True])
def test_fused_equals_plain_with_its_gradients(bias: bool) -> None:
    base, delta = linear_with_delta(bias=bias)
    results = []
    for form in (delta.forward, delta.plain):
        torch.manual_seed(2)
        x = torch.randn(2, 7, 24, requires_grad=True)
        y = form(x.tanh(), base)
        (y * torch.randn_like(y)).sum().backward()
        results.append((y.detach(), x.grad, delta.A.grad, delta.B.grad))
        delta.zero_grad()
    for fused, plain in zip(*results, strict=True):
        assert (fused - plain).norm() / plain.norm() < 1e-6


def test_fused_gradients_against_finite_differences() -> None:
    base, delta = linear_with_delta(bias=True, dtype=torch.float64)
    from luthier.methods._lowrank import LoraLinear

    a, b = delta.A.detach().double().requires_grad_(), delta.B.detach().double().requires_grad_()
    x = torch.randn(3, 24, dtype=torch.float64, requires_grad=True)
    # the gradients of A and B are handed back in fp32, the format of the parameters: hence the tolerance
    assert torch.autograd.gradcheck(
        lambda x, a, b: LoraLinear.apply(x, base.weight, base.bias, a, b, 3.0), (x, a, b), atol=1e-4, rtol=1e-4, eps=1e-6
    )


def test_bfloat16_stays_within_its_noise() -> None:
    base, delta = linear_with_delta(bias=False, dtype=torch.bfloat16)
    x = torch.randn(32, 24)
    exact = x @ delta.merged(base).float().T
    got = delta(x.bfloat16(), base).float()
    assert (got - exact).norm() / exact.norm() < 0.01
    assert delta(x.bfloat16(), base).dtype is torch.bfloat16


def test_the_start_depends_on_seed_and_name_not_on_order(tiny_model: Make) -> None:
    every, some, other = tiny_model(), tiny_model(), tiny_model()
    a, b, c = Method(Options()), Method(Options(targets=["down_proj"])), Method(Options())
    a.attach(every, seed=5)
    b.attach(some, seed=5)
    c.attach(other, seed=6)
    path = "model.layers.1.mlp.down_proj"
    assert torch.equal(a.deltas(every)[path].A, b.deltas(some)[path].A)
    assert not torch.equal(a.deltas(every)[path].A, c.deltas(other)[path].A)
    drawn = a.deltas(every)[path].A.detach()
    bound = 1 / math.sqrt(drawn.shape[1])
    assert drawn.abs().max() <= bound
    assert drawn.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(
    ("options", "scale"), [({"rank": 4}, 2.0), ({"rank": 4, "alpha": 6}, 1.5), ({"rank": 4, "alpha": 6, "rslora": True}, 3.0)]
)
def test_scale(options: dict[str, Any], scale: float, tiny_model: Make) -> None:
    model = tiny_model()
    assert {d.scale for d in tuned(model, **options).deltas(model).values()} == {scale}


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ("all-linear", 14),
        (["q_proj", "v_proj"], 4),
        (["*.layers.1.mlp.*"], 3),
        (["model.layers.0.self_attn.o_proj"], 1),
        (["mlp.up_proj"], 2),
    ],
)
def test_targets(targets: Any, count: int, tiny_model: Make) -> None:
    model = tiny_model()
    assert len(tuned(model, targets=targets).deltas(model)) == count == len(slots(model.network))


def test_a_target_that_is_not_there_suggests(tiny_model: Make) -> None:
    with pytest.raises(SpecError, match=r"no linear of the blocks is called 'q_prj'. Did you mean q_proj\?"):
        tuned(tiny_model(), targets=["q_prj"])


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValidationError, match="rank"):
        Options(rank=0)


def test_rate_ratio_reaches_the_second_matrices(tiny_model: Make) -> None:
    model = tiny_model()
    first, second = tuned(model, rate_ratio=16).groups(model)
    assert (first.rate, second.rate) == (1.0, 16.0)
    assert {p.shape[0] for _, p in first.parameters} == {16}
    assert {p.shape[1] for _, p in second.parameters} == {16}


def test_dropout_acts_in_training_only(tiny_model: Make) -> None:
    model = tiny_model()
    tuned(model, dropout=0.5)
    torch.manual_seed(0)
    model.network.train()
    assert not torch.equal(logits(model), logits(model))
    model.network.eval()
    assert torch.equal(logits(model), logits(model))


def test_two_adapters_share_the_slots(tiny_model: Make) -> None:
    model = tiny_model()
    base = logits(model)
    first = tuned(model)
    one = logits(model)
    second = Method(Options(rank=2, targets=["o_proj"]))
    second.attach(model, name="mail")
    assert torch.equal(logits(model), base)
    with first.active(model, True):
        assert torch.equal(logits(model), one)
    with pytest.raises(ModelError, match="hosts another adapter besides 'mail'"):
        second.merge(model)


def test_in_a_mixture_of_experts_it_stands_beside_attention(tiny_model: Make) -> None:
    """The experts of a block are one weight, not linears."""
    model = tiny_model(model_type="mixtral")
    base = logits(model)
    tuned(model, rank=4)
    assert {path.split(".")[3] for path in slots(model.network)} == {"self_attn"}
    assert not torch.allclose(logits(model), base)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers by the old name
@pytest.mark.parametrize("kind", ["llama", "qwen2", "phi3", "gpt_neox", "gpt2", "mixtral"])
def test_peft_loads_ours_with_equal_logits(kind: str, tiny_model: Make, tmp_path: Path) -> None:
    from peft import PeftModel

    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1} if kind == "gpt2" else {}
    model = tiny_model(model_type=kind, **shape)
    plain = plain_network(model)
    tuned(model, rank=4, alpha=10, rslora=True).save(model, tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(plain, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(theirs(TOKENS_T[None]).logits[0], logits(model), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers by the old name
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "lora_alpha": 12},
        {"target_modules": r".*\.layers\.1\..*_proj", "rank_pattern": {r".*v_proj": 3}, "alpha_pattern": {"up_proj": 40}},
    ],
    ids=["all", "names", "patterns"],
)
def test_we_load_theirs_with_equal_logits(settings: dict[str, Any], tiny_model: Make, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model(model_type="qwen2")
    plain = plain_network(model)
    torch.manual_seed(4)
    theirs = get_peft_model(plain, LoraConfig(r=6, task_type="CAUSAL_LM", init_lora_weights=False, **settings)).eval()
    theirs.save_pretrained(str(tmp_path))
    method = Method.load(model, tmp_path)
    expected = theirs(TOKENS_T[None]).logits[0]
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    method.save(model, tmp_path / "again")
    again = tiny_model(model_type="qwen2")
    Method.load(again, tmp_path / "again")
    torch.testing.assert_close(logits(again), expected, rtol=1e-4, atol=1e-5)


def test_the_config_names_the_base_without_a_path(tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model(name=str(tmp_path / "secret" / "my-base"))
    tuned(model).save(model, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "my-base"
    assert config["target_modules"] == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def spoil(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"use_bdlora": True}, "uses use_bdlora = true, which is not computed here"),
        ({"use_dora": True}, "without a magnitude"),
        ({"bias": "all"}, 'uses bias = "all"'),
        ({"modules_to_save": ["lm_head"]}, r'uses modules_to_save = \["lm_head"\]'),
        ({"init_lora_weights": "pissa"}, 'uses init_lora_weights = "pissa"'),
        ({"feature_of_tomorrow": 1}, "uses feature_of_tomorrow = 1"),
        ({"peft_type": "IA3"}, r"not an adapter of kind LORA \(peft_type = 'IA3'\)"),
        ({"r": 5}, "rank 5 is announced"),
        ({"rank_pattern": {"(a+)+b": 3}}, "is not a plain one"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(changes: dict[str, Any], text: str, tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model()
    tuned(model).save(model, tmp_path / "adapter")
    spoil(tmp_path / "adapter", **changes)
    with pytest.raises(ModelError, match=text):
        Method.load(tiny_model(), tmp_path / "adapter")


def test_an_adapter_that_does_not_belong_is_refused(tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model()
    tuned(model).save(model, tmp_path / "adapter")
    with pytest.raises(ModelError, match="is not a linear in a block"):
        Method.load(tiny_model(num_hidden_layers=1), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.lm_head.weight": torch.zeros(2)}, file)
    with pytest.raises(ModelError, match="not part of a plain LoRA"):
        Method.load(tiny_model(), tmp_path / "adapter")
    file.write_bytes(b"cut")
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        Method.load(tiny_model(), tmp_path / "adapter")
    file.rename(file.with_name("adapter_model.bin"))
    with pytest.raises(ModelError, match="a pickle, which can run any code"):
        Method.load(tiny_model(), tmp_path / "adapter")


def test_merging_into_bfloat16_stays_within_its_noise(tiny_model: Make) -> None:
    model = tiny_model(dtype="bfloat16")
    method = tuned(model)
    before = logits(model).float()
    method.merge(model)
    assert (logits(model).float() - before).norm() / before.norm() < 0.02


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # dynamo instantiates autograd.Function itself
def test_a_slot_survives_torch_compile(tiny_model: Make) -> None:
    model = tiny_model()
    tuned(model)
    slot = slots(model.network)["model.layers.0.mlp.up_proj"]
    x = torch.randn(9, 32)
    compiled = torch.compile(slot, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), slot(x))
