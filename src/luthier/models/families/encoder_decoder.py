"""Encoder-decoders of text: T5. One stack reads the source whole, the other writes the target beside it.

A row is its source, the source's end, the decoder's first token and the target (``data/sources.py``). Only the target is learned.

T tokens of a pack, S sources, N tokens of the longest, D width of a state.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM

from luthier.core.errors import ModelError
from luthier.data.sources import TRANSLATORS
from luthier.models.families import _two_stacks as stacks
from luthier.models.families._linears import linears
from luthier.models.families._next_token import embedding, head, own_head, summary
from luthier.models.families._two_stacks import Sources, Writer, blocks, groups

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
    "write_beside",
]

MODEL_TYPES = TRANSLATORS

GIVES = frozenset({"linears", "next-token"})
"""What methods and objectives may ask of it: a source's tokens have no states to put a head on, and nothing can be laid before them."""

APART = False
"""Answers to one source share it."""

ATTENTION = "sdpa"
"""The attention it is loaded with: paths lie in a batch of their own."""

SPARE = ("EncDecAttention.relative_attention_bias",)
"""A bias that the first checkpoints hold and no version of the network reads."""

LONGEST = 512
"""Tokens of a source, and of a target, that T5 was made with (arXiv 1910.10683, section 3.1.2), where a config does not say."""


def auto(config: Any, names: Collection[str] = (), *, where: str = "") -> Any:
    """transformers' auto class that reads a checkpoint."""
    return AutoModelForSeq2SeqLM


def context(config: Any) -> int:
    """Longest row, in tokens: a source and its target."""
    return 2 * int(getattr(config, "n_positions", None) or LONGEST)


def check(config: Any, *, where: str = "") -> None:
    """Refuse what has no decoder, or does not say how one begins.

    Raises:
        ModelError: see there.
    """
    if not config.is_encoder_decoder or getattr(config, "decoder_start_token_id", None) is None:
        raise ModelError(
            "config.json names no decoder's first token (is_encoder_decoder, decoder_start_token_id).",
            where=where,
            remedy="Fetch the model again; T5's says 0.",
            code="model_type",
        )


def states(network: nn.Module, *, tokens_T: Tensor, positions_T: Tensor, sight: Any) -> Tensor:
    """States before the head, ``[T, D]``, of a forest of rows: those of targets, and zeros at the tokens of sources.

    Args:
        tokens_T: token ids. positions_T: not looked at. sight: who sees whom.
    """
    base, start, ids = cast(Any, network), int(cast(Any, network.config).decoder_start_token_id), tokens_T.tolist()
    asked, written = list[tuple[int, ...]](), list[list[int]]()
    for path in stacks.paths(sight):
        cut = next((n for n, place in enumerate(path) if ids[place] == start), len(path) - 1)
        asked.append(tuple(ids[place] for place in path[:cut]))
        written.append(path[cut:])
    own = {source: number for number, source in enumerate(dict.fromkeys(asked))}
    read = _read(base, [list(source) for source in own])
    index = torch.tensor([own[source] for source in asked], device=tokens_T.device)
    assert read.mask_RN is not None
    sources = Sources(read.states_RND[index], read.mask_RN[index])
    return stacks.decoded(base.decoder, sources, written, tokens_T) * _scale(network)


def write_beside(network: nn.Module, prompts: list[list[int]], media: list[Any]) -> Writer:
    """Rows that go on writing, each from its source."""
    start = int(cast(Any, network.config).decoder_start_token_id)
    cuts = [prompt.index(start) for prompt in prompts]
    sources = _read(cast(Any, network), [prompt[:cut] for prompt, cut in zip(prompts, cuts, strict=True)])
    begun = [prompt[cut:] for prompt, cut in zip(prompts, cuts, strict=True)]
    return Writer(cast(Any, network).decoder, sources, begun, scale=_scale(network))


def _read(network: Any, sources: list[list[int]]) -> Sources:
    """Each source, in one batch."""
    longest = max(1, *map(len, sources))
    where = network.shared.weight.device
    tokens_SN = torch.tensor([[*source, *[0] * (longest - len(source))] for source in sources], device=where)
    mask_SN = torch.tensor([[n < max(1, len(source)) for n in range(longest)] for source in sources], device=where).to(torch.int64)
    return Sources(network.encoder(input_ids=tokens_SN, attention_mask=mask_SN).last_hidden_state, mask_SN)


def _scale(network: nn.Module) -> float:
    """T5 1.0 scales states before its tied head; 1.1 does not."""
    config = cast(Any, network.config)
    return float(config.d_model**-0.5) if config.scale_decoder_outputs else 1.0
