"""Decoders: networks that write the next token. Llama, Qwen, Mistral, Gemma, Phi-3, GPT-2, GPT-NeoX, mixtures of experts and their like.

In a mixture of experts (Mixtral, Qwen2-MoE, Qwen3-MoE) a router chooses for every token by itself, so a tree changes nothing. The experts
of a block are one three-dimensional weight and no linears: what stands beside a linear (lora, dora, ia3 ...) finds attention and, in
Qwen2-MoE, the shared expert; `full` and `freeze` move everything. The balance of the router is not part of the loss, as by default in
transformers.

T tokens of a pack, D width of a state.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from luthier.core.errors import ModelError
from luthier.models.families._linears import linears
from luthier.models.sight import NAME
from luthier.models.slot import Slot

__all__ = [
    "APART",
    "ATTENTION",
    "GIVES",
    "MODEL_TYPES",
    "SPARE",
    "auto",
    "blocks",
    "check",
    "context",
    "embedding",
    "groups",
    "head",
    "linears",
    "own_head",
    "states",
    "summary",
]

MODEL_TYPES = frozenset(
    {
        *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3", "gpt2", "gpt_neox"),
        *("mixtral", "qwen2_moe", "qwen3_moe"),
    }
)
"""Each is compared with transformers' own forward in ``tests/models/test_decoder.py``."""

GIVES = frozenset({"linears", "embedding", "attention", "next-token", "states"})
"""What methods and objectives may ask of it."""

APART = False
"""Rows share their common beginnings."""

ATTENTION = NAME
"""The attention it is loaded with."""

SPARE: tuple[str, ...] = ()
"""Every weight of a checkpoint is read."""

_BLOCKS = ("layers", "h")
"""What transformers calls the list of blocks inside the base model: everybody ``layers``, GPT-2 ``h``."""

_SAME_INPUT = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj"),
)
"""True of every type above that has these names; Phi-3, GPT-2 and GPT-NeoX keep theirs in one matrix already."""

_GROWING_ROPE = frozenset({"dynamic", "longrope"})
"""Rotary embeddings whose frequencies change with the longest position of a batch: exact only up to the original context."""


def auto(config: Any, names: Collection[str] = (), *, where: str = "") -> Any:
    """transformers' auto class that reads a checkpoint: with the head that says the next token, whatever else it is called."""
    return AutoModelForCausalLM


def blocks(network: nn.Module) -> nn.ModuleList:
    """The layers that repeat, first to last."""
    base = network.base_model
    found = next(getattr(base, name) for name in _BLOCKS if hasattr(base, name))
    assert isinstance(found, nn.ModuleList)
    return found


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
    """A decoder is read with the head that says the next token, and no other."""
    return None


def states(network: nn.Module, *, tokens_T: Tensor, positions_T: Tensor, sight: Any, lead_VD: Tensor | None = None) -> Tensor:
    """States after the final norm, ``[T, D]``, of a forest of tokens.

    Args:
        tokens_T: token ids. positions_T: depth of each on its path, which the rotary embedding sees.
        sight: who sees whom (``models/sight.py``); goes down to every attention untouched.
        lead_VD: vectors in the place of embedded tokens, laid before the others; positions, sight and result count them.
    """
    base = cast(nn.Module, network.base_model)
    ids_1T = tokens_T[None].to(torch.int64)
    given = {"input_ids": ids_1T}
    if lead_VD is not None:
        own = network.get_input_embeddings()(ids_1T)  # type: ignore[operator]
        given = {"inputs_embeds": torch.cat([lead_VD[None].to(own.dtype), own], dim=1)}
    out = base(
        **given,
        position_ids=positions_T[None].to(torch.int64),
        sight=sight,
        use_cache=False,
    )
    states_TD: Tensor = out.last_hidden_state[0]
    return states_TD
