"""Decoders that see: a tower turns pictures into states, a projector into vectors among the embedded words. LLaVA and its like.

The language model is one of the decoders, with all its parts; blocks, linears, embedding and head are its own. Tower and projector stand
still unless a method moves them by name (`full`, `freeze`).

T tokens of a pack, D width of a state, C colours, H height, W width.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from luthier.core.errors import ModelError
from luthier.data.eyes import SEEING
from luthier.models.families import _next_token as writer
from luthier.models.families._linears import linears
from luthier.models.families._next_token import embedding, groups, head, own_head, summary
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

MODEL_TYPES = SEEING

GIVES = frozenset({"linears", "embedding", "attention", "next-token", "states", "words", "pictures"})
"""What methods and objectives may ask of it."""

APART = False
"""Rows of words share their beginnings; those with pictures lie apart (`Sequence.apart`)."""

ATTENTION = {"text_config": NAME, "vision_config": "sdpa"}
"""The attention it is loaded with: words by the rule of sight, pictures in a batch of their own."""

SPARE: tuple[str, ...] = ()
"""Every weight of a checkpoint is read."""

TOWERS = frozenset({"clip_vision_model", "siglip_vision_model"})


def auto(config: Any, names: Collection[str] = (), *, where: str = "") -> Any:
    """transformers' auto class that reads a checkpoint."""
    return AutoModelForImageTextToText


def blocks(network: nn.Module) -> nn.ModuleList:
    """The layers of the language model, first to last."""
    return cast(nn.ModuleList, cast(Any, network.base_model).language_model.layers)


def context(config: Any) -> int:
    """Longest row, in tokens, those of pictures among them."""
    return writer.context(config.text_config)


def check(config: Any, *, where: str = "") -> None:
    """Refuse what is not computed.

    Raises:
        ModelError: the language model or the tower is of another kind.
    """
    kinds = (config.text_config.model_type, writer.DECODERS), (config.vision_config.model_type, TOWERS)
    for kind, known in kinds:
        if kind not in known:
            raise ModelError(
                f"A part of the kind {kind!r} inside a {config.model_type} is not computed.",
                where=where,
                remedy=f"These are: {', '.join(sorted(known))}.",
                code="model_type",
            )
    writer.check(config.text_config, where=where)


def states(
    network: nn.Module,
    *,
    tokens_T: Tensor,
    positions_T: Tensor,
    sight: Any,
    media: Collection[tuple[int, Any]] = (),
    lead_VD: Tensor | None = None,
) -> Tensor:
    """States after the final norm, ``[T, D]``, of a forest of tokens.

    Args:
        media: pictures in the order of their tokens, each as float32 ``[C, H, W]``, with the index of its row's first token.
        lead_VD: vectors laid before the embedded tokens; positions, sight and result count them.

    Raises:
        ModelError: there are tokens of pictures, and no pictures.
    """
    base, tokens_T = cast(Any, network.base_model), tokens_T.to(torch.int64)
    x_TD = base.get_input_embeddings()(tokens_T)
    if media:
        first = next(base.vision_tower.parameters())
        pixels_RCHW = torch.stack([torch.from_numpy(picture) for _, picture in media]).to(first.device, first.dtype)
        features_ND = torch.cat(list(base.get_image_features(pixel_values=pixels_RCHW).pooler_output))
        x_TD = x_TD.index_put((_places(network, tokens_T),), features_ND.to(x_TD.dtype))
    elif tokens_T.device.type == "cpu" and len(_places(network, tokens_T)):
        raise ModelError(
            "There are pictures among the words, but they were not given along.",
            remedy="Pictures are read where rows name them: in training and evaluation.",
            code="unsupported_media",
        )
    if lead_VD is not None:
        x_TD = torch.cat([lead_VD.to(x_TD.dtype), x_TD])
    out = base.language_model(inputs_embeds=x_TD[None], position_ids=positions_T[None].to(torch.int64), sight=sight, use_cache=False)
    states_TD: Tensor = out.last_hidden_state[0]
    return states_TD


def _places(network: nn.Module, tokens_T: Tensor) -> Tensor:
    image = int(cast(Any, network.config).image_token_id)
    return (tokens_T == image).nonzero().squeeze(1)
