"""Classifiers of pictures: ViT and DeiT. A row is one picture, cut into patches; every patch sees every other of its picture.

The tokens of a row only hold places (``data/patches.py``): states are made from the picture, all pictures of a pack in one batch, so that
no rule of sight is needed. What is learned on them is a head (`predict`).

T places of a pack, R rows, P places of a row, N states, D width of a state, C colours, H height, W width.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageClassification

from luthier.core.errors import ModelError
from luthier.data.patches import CLASSIFIERS
from luthier.models.families._linears import linears
from luthier.models.families._own_heads import labels_of, name_outputs
from luthier.models.predictor import Meaning

__all__ = [
    *("APART", "ATTENTION", "GIVES", "MODEL_TYPES", "SPARE", "auto", "blocks", "check", "context", "embedding", "groups", "head"),
    *("linears", "own_head", "publish", "states", "summary"),
]

MODEL_TYPES = frozenset(CLASSIFIERS)

GIVES = frozenset({"linears", "states", "pictures"})
"""What methods and objectives may ask of it."""

APART = True
"""Rows share nothing."""

ATTENTION = "sdpa"
"""The attention it is loaded with: pictures lie in a batch of their own."""

SPARE = (".pooler.", "distillation_classifier.")
"""A pooler nobody reads, and DeiT's second head for its teacher's answers; they are told."""

_SAME_INPUT = (("attention.q_proj", "attention.k_proj", "attention.v_proj"),)


def auto(config: Any, names: Collection[str] = (), *, where: str = "") -> Any:
    """transformers' auto class that reads a checkpoint with the head it has.

    Raises:
        ModelError: the head is one that would be lost.
    """
    said = (config.architectures or ["Model"])[0]
    if said.endswith(("ForImageClassification", "ForImageClassificationWithTeacher")):
        return AutoModelForImageClassification
    if said.endswith("Model"):
        return AutoModel
    raise ModelError(
        f"A checkpoint of the kind {said} has a head that is not read, and would be lost.",
        where=where,
        remedy="Take the model it was made from, or one that classifies.",
        code="model_type",
    )


def blocks(network: nn.Module) -> nn.ModuleList:
    """The layers that repeat, first to last."""
    return cast(nn.ModuleList, cast(Any, network.base_model).layers)


def groups(block: nn.Module) -> list[tuple[str, ...]]:
    """Names of the linears of `block` that read the same input."""
    names = linears(block)
    return [group for group in _SAME_INPUT if all(name in names for name in group)]


def embedding(network: nn.Module) -> None:
    """There is none: patches are no tokens."""
    return None


def head(network: nn.Module) -> nn.Linear:
    """There is none.

    Raises:
        ModelError: always; a classifier of pictures writes no tokens.
    """
    raise ModelError(
        "A classifier of pictures writes no next token: it says what a picture shows.",
        remedy="Ask it with objective predict; to have pictures described, choose a model that writes (docs/families.md).",
        code="no_next_token",
    )


def context(config: Any) -> int:
    """Places of one picture."""
    sides = [value if isinstance(value, list | tuple) else (value, value) for value in (config.image_size, config.patch_size)]
    (height, width), (down, across) = sides
    return int(height // down) * int(width // across) + CLASSIFIERS[config.model_type]


def check(config: Any, *, where: str = "") -> None:
    """Refuse a head that would be lost.

    Raises:
        ModelError: see `auto`.
    """
    auto(config, where=where)


def states(network: nn.Module, *, tokens_T: Tensor, positions_T: Tensor, sight: Any, media: list[tuple[int, Any]]) -> Tensor:
    """States after the final norm, ``[T, D]``, of pictures that lie end to end.

    Args:
        tokens_T, positions_T, sight: not looked at.
        media: of each row the index of its first place, and its picture as float32 ``[C, H, W]``.
    """
    base = cast(nn.Module, network.base_model)
    first = next(base.parameters())
    pixels_RCHW = torch.stack([torch.from_numpy(picture) for _, picture in media]).to(first.device, first.dtype)
    states_RPD: Tensor = base(pixel_values=pixels_RCHW).last_hidden_state
    assert states_RPD.shape[0] * states_RPD.shape[1] == len(tokens_T), "a picture has another number of patches than places were laid"
    return states_RPD.reshape(len(tokens_T), -1)


def summary(network: nn.Module, states_ND: Tensor, *, words: bool = False) -> Tensor:
    """What a head reads of the states at the rows' first places: the states themselves."""
    return states_ND


def own_head(network: nn.Module) -> tuple[nn.Linear, Meaning] | None:
    """The checkpoint's own head, and what it says."""
    classifier, config = getattr(network, "classifier", None), cast(Any, network.config)
    if not isinstance(classifier, nn.Linear):
        return None
    return classifier, Meaning("class", labels_of(config, classifier.out_features))


def publish(network: nn.Module, linear: nn.Linear, labels: tuple[str, ...], *, several: bool) -> None:
    """Put another linear into the place of the checkpoint's own head, and say in its config what it says."""
    mine, config = cast(Any, network), cast(Any, network.config)
    mine.classifier, mine.num_labels = linear, linear.out_features
    name_outputs(config, labels, several=several)
