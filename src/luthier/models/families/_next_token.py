"""What networks that write the next token have in common, whatever else they read."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from luthier.core.errors import ModelError
from luthier.models.families._linears import linears
from luthier.models.slot import Slot

DECODERS = frozenset(
    {
        *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3", "gpt2", "gpt_neox"),
        *("mixtral", "qwen2_moe", "qwen3_moe"),
    }
)
"""``model_type`` of those that are known. Each is compared with transformers' own forward in ``tests/models/test_decoder.py``."""

_SAME_INPUT = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
)
"""True of every type above that has these names; Phi-3, GPT-2 and GPT-NeoX keep theirs in one matrix already."""

_GROWING_ROPE = frozenset({"dynamic", "longrope"})
"""Rotary embeddings whose frequencies change with the longest position of a batch: exact only up to the original context."""


def groups(block: nn.Module) -> list[tuple[str, ...]]:
    """Names of the linears of `block` that read the same input, so that the engine may run them as one matmul."""
    names = linears(block)
    return [group for group in _SAME_INPUT if all(name in names for name in group)]


def embedding(network: nn.Module) -> nn.Embedding:
    """Token id to vector, seen through a slot. Gemma's also scales."""
    found = network.get_input_embeddings()  # type: ignore[operator]
    found = found.base if isinstance(found, Slot) else found
    assert isinstance(found, nn.Embedding)
    return found


def head(network: nn.Module) -> nn.Linear:
    """State to token scores; without bias (`check` sees to it), often the same tensor as the embedding's."""
    found = network.get_output_embeddings()  # type: ignore[operator]
    assert isinstance(found, nn.Linear)
    return found


def context(config: Any) -> int:
    """Longest row, in tokens, that the network reads as it was made to."""
    rope = getattr(config, "rope_parameters", None) or {}
    longest = int(config.max_position_embeddings)
    if rope.get("rope_type") in _GROWING_ROPE:
        original = rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        return min(longest, int(original or longest))
    return longest


def check(config: Any, *, where: str = "") -> None:
    """Refuse what a config asks for and the engine does not compute: it must never train another function than it serves.

    Raises:
        ModelError: attention that also looks forward, cross attention, or a loss on the router's balance.
    """
    wishes = {
        "use_bidirectional_attention": ("attention that looks forward", "Choose another base model; `luthier models` lists some."),
        "add_cross_attention": ("attention to an encoder", "Choose another base model; `luthier models` lists some."),
        "output_router_logits": ("a loss on the balance of the router", "Set it to false there: answers stay as they are."),
    }
    for key, (meaning, remedy) in wishes.items():
        if getattr(config, key, None):
            raise ModelError(
                f"config.json asks for {meaning} ({key} = {getattr(config, key)!r}), which the engine does not compute.",
                where=where,
                remedy=remedy,
                code="model_type",
            )


def summary(network: nn.Module, states_ND: Tensor, *, words: bool = False) -> Tensor:
    """What a head reads of the states: the states themselves."""
    return states_ND


def own_head(network: nn.Module) -> None:
    """Such a network is read with the head that says the next token, and no other."""
    return None
