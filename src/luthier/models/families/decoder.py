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

from luthier.models.families._linears import linears
from luthier.models.families._next_token import DECODERS, check, context, embedding, groups, head, own_head, summary
from luthier.models.sight import NAME

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

MODEL_TYPES = DECODERS

GIVES = frozenset({"linears", "embedding", "attention", "next-token", "states", "words"})
"""What methods and objectives may ask of it."""

APART = False
"""Rows share their common beginnings."""

ATTENTION = NAME
"""The attention it is loaded with."""

SPARE: tuple[str, ...] = ()
"""Every weight of a checkpoint is read."""

_BLOCKS = ("layers", "h")
"""What transformers calls the list of blocks inside the base model: everybody ``layers``, GPT-2 ``h``."""


def auto(config: Any, names: Collection[str] = (), *, where: str = "") -> Any:
    """transformers' auto class that reads a checkpoint: with the head that says the next token, whatever else it is called."""
    return AutoModelForCausalLM


def blocks(network: nn.Module) -> nn.ModuleList:
    """The layers that repeat, first to last."""
    base = network.base_model
    found = next(getattr(base, name) for name in _BLOCKS if hasattr(base, name))
    assert isinstance(found, nn.ModuleList)
    return found


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
