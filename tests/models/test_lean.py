"""The lean modules compute what transformers' own do."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.models.lean import GatedMlp, RmsNorm, make_lean

MIXTURES = ["mixtral", "qwen2_moe", "qwen3_moe"]
TYPES = ["llama", "mistral", "qwen2", "qwen3", "smollm3", *MIXTURES]
EXPERTS = {
    "num_experts_per_tok": 2,
    "num_experts": 4,
    "num_local_experts": 4,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}


def network(model_type, dtype):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        **(EXPERTS if model_type in MIXTURES else {}),
    )
    made = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype)
    for name, parameter in made.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)  # a weight of one would hide a forgotten factor
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_type", TYPES)
def test_equal_forward_and_backward(model_type, dtype):
    plain = network(model_type, dtype)
    lean = copy.deepcopy(plain)
    assert make_lean(lean) >= 2 * (2 if model_type in MIXTURES else 3) + 1
    assert list(plain.state_dict()) == list(lean.state_dict())
    tokens = torch.randint(0, 64, (1, 20))
    answers = [made(input_ids=tokens, use_cache=False).logits for made in (plain, lean)]
    assert torch.equal(*answers)
    for logits in answers:
        logits.float().log_softmax(-1)[..., 3].sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for (name, a), b in zip(plain.named_parameters(), lean.parameters(), strict=True):
        distance = (a.grad - b.grad).float().norm() / a.grad.float().norm().clamp(min=1e-9)
        assert distance < tolerance, f"{name}: {distance:.1e}"


def test_gemma_is_left_alone():
    """Its norm adds one to the weight and its MLP uses another activation."""
    config = AutoConfig.for_model(
        "gemma",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    made = AutoModelForCausalLM.from_config(config)
    assert make_lean(made) == 0
    assert not any(isinstance(module, RmsNorm | GatedMlp) for module in made.modules())
