"""Classifiers of sounds: the Audio Spectrogram Transformer. A row is one sound, its spectrogram cut into patches as a picture's are.

The tokens of a row only hold places (``data/hearing.py``). What is learned on them is a head (`predict`).

R rows, P places of a row, T places of a pack, F frames, B pitches, N states, D width of a state.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForAudioClassification

from luthier.core.errors import ModelError
from luthier.data.hearing import HEARERS
from luthier.models.families._linears import linears
from luthier.models.families._own_heads import labels_of, name_outputs
from luthier.models.predictor import Meaning

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
    "publish",
    "states",
    "summary",
]

MODEL_TYPES = HEARERS

GIVES = frozenset({"linears", "states", "sounds"})
"""What methods and objectives may ask of it."""

APART = True
"""Rows share nothing."""

ATTENTION = "sdpa"
"""The attention it is loaded with: sounds lie in a batch of their own."""

SPARE: tuple[str, ...] = ()
"""Every weight of a checkpoint is read."""


def auto(config: Any, names: Collection[str] = (), *, where: str = "") -> Any:
    """transformers' auto class that reads a checkpoint with the head it has."""
    return AutoModel if (config.architectures or ["Model"])[0].endswith("Model") else AutoModelForAudioClassification


def blocks(network: nn.Module) -> nn.ModuleList:
    """The layers that repeat, first to last."""
    return cast(nn.ModuleList, cast(Any, network.base_model).layers)


def groups(block: nn.Module) -> list[tuple[str, ...]]:
    """Names of the linears of `block` that read the same input."""
    names = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
    return [names] if all(name in linears(block) for name in names) else []


def embedding(network: nn.Module) -> None:
    """There is none: patches are no tokens."""
    return None


def head(network: nn.Module) -> nn.Linear:
    """There is none.

    Raises:
        ModelError: always; a classifier of sounds writes no tokens.
    """
    raise ModelError(
        "A classifier of sounds writes no next token: it says what a sound is.",
        remedy="Ask it with objective predict; to have speech written down, choose a transcriber (docs/families.md).",
        code="no_next_token",
    )


def context(config: Any) -> int:
    """Places of one sound."""
    high = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    wide = (config.max_length - config.patch_size) // config.time_stride + 1
    return int(high * wide + 2)


def check(config: Any, *, where: str = "") -> None:
    """Nothing to refuse: every checkpoint of the kind is read."""


def states(network: nn.Module, *, tokens_T: Tensor, positions_T: Tensor, sight: Any, media: list[tuple[int, Any]]) -> Tensor:
    """States after the final norm, ``[T, D]``, of sounds that lie end to end; a row's first is the mean of its first two, which heads read.

    Args:
        tokens_T, positions_T, sight: not looked at.
        media: of each row the index of its first place, and its sound as float32 ``[F, B]``.
    """
    base = cast(nn.Module, network.base_model)
    first = next(base.parameters())
    heard_RFB = torch.stack([torch.from_numpy(sound) for _, sound in media]).to(first.device, first.dtype)
    out = base(input_values=heard_RFB)
    states_RPD = torch.cat([out.pooler_output[:, None], out.last_hidden_state[:, 1:]], dim=1)
    assert states_RPD.shape[0] * states_RPD.shape[1] == len(tokens_T), "a sound has another number of patches than places were laid"
    return states_RPD.reshape(len(tokens_T), -1)


def summary(network: nn.Module, states_ND: Tensor, *, words: bool = False) -> Tensor:
    """What a head reads of the states at the rows' first places: what the checkpoint's own head norms, where it has one."""
    classifier = getattr(network, "classifier", None)
    return states_ND if classifier is None else cast(Tensor, classifier.layernorm(states_ND))


def own_head(network: nn.Module) -> tuple[nn.Linear, Meaning] | None:
    """The checkpoint's own head, and what it says."""
    linear = getattr(getattr(network, "classifier", None), "dense", None)
    if not isinstance(linear, nn.Linear):
        return None
    return linear, Meaning("class", labels_of(network.config, linear.out_features))


def publish(network: nn.Module, linear: nn.Linear, labels: tuple[str, ...], *, several: bool) -> None:
    """Put another linear into the place of the checkpoint's own head, and say in its config what it says."""
    mine = cast(Any, network)
    mine.classifier.dense, mine.num_labels = linear, linear.out_features
    name_outputs(mine.config, labels, several=several)
