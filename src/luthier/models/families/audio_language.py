"""Transcribers: networks that hear a sound and write it down. Whisper.

A row is places for what the encoder makes of the sound, then the tokens a transcript begins with, and the transcript
(``data/hearing.py``). Only the transcript is learned.

T tokens of a pack, R rows, B pitches, F frames, D width of a state.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSpeechSeq2Seq

from luthier.core.errors import ModelError
from luthier.data.hearing import TRANSCRIBERS
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

MODEL_TYPES = TRANSCRIBERS

GIVES = frozenset({"linears", "next-token", "sounds"})
"""What methods and objectives may ask of it."""

APART = True
"""Rows share nothing: two sounds have the same places."""

ATTENTION = "sdpa"
"""The attention it is loaded with: rows lie in a batch of their own."""

SPARE: tuple[str, ...] = ()
"""Every weight of a checkpoint is read."""


def auto(config: Any, names: Collection[str] = (), *, where: str = "") -> Any:
    """transformers' auto class that reads a checkpoint."""
    return AutoModelForSpeechSeq2Seq


def context(config: Any) -> int:
    """Places of a sound, and the longest transcript."""
    return int(config.max_source_positions) + int(config.max_target_positions)


def check(config: Any, *, where: str = "") -> None:
    """Refuse a head that would be lost.

    Raises:
        ModelError: the checkpoint classifies, or is half of one.
    """
    said = (config.architectures or ["WhisperForConditionalGeneration"])[0]
    if not said.endswith("ForConditionalGeneration"):
        raise ModelError(
            f"A checkpoint of the kind {said} does not transcribe.",
            where=where,
            remedy="Choose one of WhisperForConditionalGeneration, or an audio classifier (docs/families.md).",
            code="model_type",
        )


def states(network: nn.Module, *, tokens_T: Tensor, positions_T: Tensor, sight: Any, media: list[tuple[int, Any]] | None = None) -> Tensor:
    """States before the head, ``[T, D]``, of rows that lie end to end: those of transcripts, and zeros at the places of sounds.

    Args:
        media: of each row the index of its first place, and its sound as float32 ``[B, F]``.

    Raises:
        ModelError: a row has no sound.
    """
    base, ways = cast(Any, network.base_model), stacks.paths(sight)
    heard = dict(media or ())
    if {way[0] for way in ways} != heard.keys():
        raise ModelError(
            "Sounds were not given along with their rows.", remedy="They are heard where rows name them.", code="unsupported_media"
        )
    sources = _heard(base, [heard[way[0]] for way in ways])
    count = int(cast(Any, network.config).max_source_positions)
    return stacks.decoded(base.decoder, sources, [way[count:] for way in ways], tokens_T)


def write_beside(network: nn.Module, prompts: list[list[int]], media: list[Any]) -> Writer:
    """Rows that go on writing, each from its sound."""
    base, count = cast(Any, network.base_model), int(cast(Any, network.config).max_source_positions)
    return Writer(base.decoder, _heard(base, media), [prompt[count:] for prompt in prompts])


def _heard(base: Any, sounds: list[Any]) -> Sources:
    first = next(base.parameters())
    heard_RBF = torch.stack([torch.from_numpy(sound) for sound in sounds]).to(first.device, first.dtype)
    return Sources(base.encoder(heard_RBF).last_hidden_state)
