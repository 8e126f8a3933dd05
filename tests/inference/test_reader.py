"""The bare forward pass equals the network's own: blocks, packed weights, adapters in slots, families it does not know."""

from typing import Any

import pytest
import torch

from luthier.inference.prefill import forest
from luthier.inference.reader import Reader
from luthier.methods.lora import Method, Options
from luthier.models import slot
from luthier.models.load import fresh
from luthier.models.model import Model

from .conftest import SMALL

KINDS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "qwen2": {"model_type": "qwen2"},  # its q, k and v have biases
    "qwen3": {"model_type": "qwen3", "head_dim": 24},  # it norms each head
    "mistral": {"model_type": "mistral", "sliding_window": 16},
    "smollm3": {"model_type": "smollm3", "pad_token_id": 0, "no_rope_layer_interval": 2},  # it leaves some layers unturned
}


def read(through: Any, prompts: list[list[int]]) -> torch.Tensor:
    trees = forest(sorted(prompts))
    tokens, positions = torch.from_numpy(trees.tokens_T), torch.from_numpy(trees.positions_T)
    with torch.no_grad():
        states: torch.Tensor = through.states(tokens_T=tokens, positions_T=positions, sight=trees.sight())
        return states


def prompts() -> list[list[int]]:
    source = torch.Generator().manual_seed(0)
    head = torch.randint(9, 512, (20,), generator=source).tolist()
    return [head + torch.randint(9, 512, (n,), generator=source).tolist() for n in (1, 7, 12)]


def made(model: Model) -> Model:
    """Biases and norms are not the zeros and ones they begin as."""
    source = torch.Generator().manual_seed(1)
    for name, parameter in model.network.named_parameters():
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=source).to(parameter.dtype)
        assert parameter.isfinite().all(), name
    return model


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_states_equal_the_networks_own(kind: str, pack: bool, llama: Model) -> None:
    config = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, **KINDS[kind]}
    model = made(fresh(config, renderer=llama.renderer, seed=3, dtype="float32"))
    reader = Reader(model, pack=pack)
    assert reader.bare
    torch.testing.assert_close(read(reader, prompts()), read(model, prompts()), rtol=1e-4, atol=1e-4)


def test_an_adapter_answers_through_packed_weights(llama: Model) -> None:
    model = made(fresh(llama.config.to_diff_dict(), renderer=llama.renderer, seed=3, dtype="float32"))
    method = Method(Options(rank=4))
    method.attach(model, seed=0)
    for delta in method.deltas(model).values():
        torch.nn.init.normal_(delta.B, std=0.1)
    reader = Reader(model)
    tuned = read(reader, prompts())
    torch.testing.assert_close(tuned, read(model, prompts()), rtol=1e-4, atol=1e-4)
    with slot.answering(model.network, None):
        base = read(reader, prompts())
        torch.testing.assert_close(base, read(model, prompts()), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(tuned, base, atol=0.1)


OTHERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gemma2": {**SMALL, "num_attention_heads": 4, "head_dim": 16, "final_logit_softcapping": 0.5},  # it bounds the scores
}


@pytest.mark.parametrize("kind", sorted(OTHERS))
def test_a_block_it_does_not_know_is_read_as_it_is(kind: str, llama: Model) -> None:
    model = fresh({"vocab_size": 512, **OTHERS[kind], "model_type": kind}, renderer=llama.renderer, seed=3, dtype="float32")
    reader = Reader(model)
    assert not reader.bare
    states = read(model, prompts())
    torch.testing.assert_close(read(reader, prompts()), states)
    plain = model.head()(states).detach()
    bounded = plain if kind == "gpt2" else 0.5 * torch.tanh(plain / 0.5)
    torch.testing.assert_close(reader.logits(states), bounded, rtol=1e-4, atol=1e-5)
