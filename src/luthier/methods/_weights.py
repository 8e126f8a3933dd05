"""What methods that move the network's own weights have in common: reading, writing and taking over those that move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from torch import Tensor, nn

from luthier.core.errors import ModelError
from luthier.models import load as models
from luthier.models.model import Model


class Whole:
    """What such methods do alike; a method adds which weights move and how they are read back."""

    needs: frozenset[str] = frozenset()
    folder_name = "model"

    def save(self, model: Model, folder: Path) -> None:
        """The whole model in the Hugging Face layout, with tokenizer and frozen template."""
        models.save(model, folder)

    def merge(self, model: Model) -> None:
        """Already plain: only stops the training."""
        model.network.requires_grad_(False)

    def active(self, model: Model, on: bool) -> AbstractContextManager[None]:
        """Base answers cannot be had from overwritten weights.

        Raises:
            ModelError: `on` is false.
        """
        return only_tuned(on)


def trained(model: Model) -> dict[str, nn.Parameter]:
    """The weights that move, by transformers' names."""
    return {name: p for name, p in model.network.named_parameters() if p.requires_grad}


def embeddings(model: Model) -> list[nn.Module]:
    """Everything before the first block, in the order networks are built: rows for tokens and places, and towers that see or hear."""
    module, first, found = cast(nn.Module, model.network.base_model), model.blocks()[0], []
    path = next(path for path, inner in module.named_modules() if inner is first)
    for step in path.split(".")[:-1]:
        children = dict(module.named_children())
        found += [children[name] for name in list(children)[: list(children).index(step)]]
        module = children[step]
    return found


@torch.no_grad()
def copy(weights: dict[str, nn.Parameter], state: dict[str, Tensor]) -> None:
    """Put `state` into `weights`, all of it or nothing.

    Raises:
        ModelError: names or shapes differ.
    """
    if weights.keys() != state.keys():
        odd = sorted(weights.keys() ^ state.keys())
        raise ModelError(
            f"{len(odd)} weights are on one side only: {', '.join(odd[:3])}.",
            remedy="It was saved from another model, or with other weights frozen.",
            code="state",
        )
    for name, weight in weights.items():
        if weight.shape != state[name].shape:
            raise ModelError(
                f"{name} is {list(state[name].shape)}, the model has {list(weight.shape)}.",
                remedy="It was saved from another model.",
                code="state",
            )
    for name, weight in weights.items():
        weight.copy_(state[name])


def overwrite(model: Model, folder: Path) -> None:
    """The weights of `model` become those in `folder`. A head there that says other labels takes the place of its own.

    Raises:
        ModelError: they are of another shape, or some are missing.
    """
    own, found, head = dict(model.network.named_parameters()), read(folder), model.family.own_head(model.network)
    if own.keys() != found.keys() or head:  # transformers keeps some kinds under other names (ViT), others in other pieces (Mixtral)
        network = models.load_folder(folder, dtype=model.dtype).network
        saved = model.family.own_head(network)
        if head and saved and head[0].weight.shape != saved[0].weight.shape:
            model.family.publish(model.network, saved[0], saved[1].labels, several=saved[1].kind == "labels")
        own, found = dict(model.network.named_parameters()), {name: p.detach() for name, p in network.named_parameters()}
    copy(own, found)


def read(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model folder."""
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as source:
            tensors |= {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118 - not a dict
    return tensors


@contextmanager
def only_tuned(on: bool) -> Iterator[None]:
    """The base's answers cannot be had from overwritten weights.

    Raises:
        ModelError: `on` is false.
    """
    if not on:
        raise ModelError(
            "Tuning overwrote the base weights, so this network cannot answer as the base.",
            remedy="Load the base a second time (luthier.models.load.reload).",
            code="no_base",
        )
    yield
