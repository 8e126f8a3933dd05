"""Full tuning: every weight moves, or all but what is frozen.

Costs about nine times the memory of the weights and gives no way back to the base but loading it again; in return nothing stands
between the examples and the model. It is also how the bundled base was pretrained.

    freeze: 0                every weight moves
    freeze: 4                the embedding and the first four blocks stay; the gradient ends there, which saves time too
    freeze: ["*.mlp.*"]      weights whose names match stay

A tied embedding is one tensor with two names: whoever freezes one freezes the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

import torch
from pydantic import Field
from safetensors import safe_open
from torch import Tensor, nn

from luthier.core.errors import ModelError, SpecError
from luthier.core.spec import Strict
from luthier.methods._groups import ParameterGroup
from luthier.models import load as models
from luthier.models.model import Model
from luthier.models.slot import slots


class Options(Strict):
    """Settings of full tuning."""

    freeze: int | list[str] = Field(0)
    """What stays as it is: a number of blocks, counted from the embedding (which stays with them), or patterns of weight names."""


class Method:
    """Full tuning."""

    supports = frozenset({"merge"})
    folder_name = "model"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Let the weights that are not frozen move. Nothing here is random.

        Raises:
            SpecError: a pattern names no weight, or nothing is left to train.
        """
        assert not slots(model.network), "full tuning works on a plain network"
        frozen = _frozen(model, self.options.freeze)
        for weight in model.network.parameters():
            weight.requires_grad_(id(weight) not in frozen)
        if not model.num_trained:
            raise SpecError(f"method.freeze = {self.options.freeze!r} leaves nothing to train.", remedy="Freeze less.", code="freeze")

    def groups(self, model: Model) -> list[ParameterGroup]:
        """Matrices decay, norms and biases do not (Loshchilov and Hutter, arXiv 1711.05101, as practised since GPT-2)."""
        trained = _trained(model)
        matrices = [(name, p) for name, p in trained.items() if p.ndim >= 2]
        vectors = [(name, p) for name, p in trained.items() if p.ndim < 2]
        groups = [ParameterGroup("full.matrices", matrices, decay=True), ParameterGroup("full.vectors", vectors)]
        return [group for group in groups if group.parameters]

    def state(self, model: Model) -> dict[str, Tensor]:
        """The weights that move, by transformers' names, in the model's number format. Views, not copies."""
        return {name: p.detach() for name, p in _trained(model).items()}

    def load_state(self, model: Model, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ModelError: names or shapes differ.
        """
        _copy(_trained(model), state)

    def save(self, model: Model, folder: Path) -> None:
        """The whole model in the Hugging Face layout, with tokenizer and frozen template."""
        models.save(model, folder)

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Overwrite the weights of `model` with those in `folder`.

        Raises:
            ModelError: they are of another shape, or some are missing.
        """
        method = cls()
        method.attach(model, name=name)
        _copy(_trained(model), _read(folder))
        return method

    def merge(self, model: Model) -> None:
        """Already plain: only stops the training."""
        model.network.requires_grad_(False)

    @contextmanager
    def active(self, model: Model, on: bool) -> Iterator[None]:
        """Base answers cannot be had from overwritten weights.

        Raises:
            ModelError: `on` is false.
        """
        if not on:
            raise ModelError(
                "Full tuning overwrote the base weights, so this network cannot answer as the base.",
                remedy="Load the base a second time (luthier.models.load.reload).",
                code="no_base",
            )
        yield


def _trained(model: Model) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.network.named_parameters() if p.requires_grad}


def _frozen(model: Model, freeze: int | list[str]) -> set[int]:
    """Identities of the weights that stay: by tensor, so that a tied one is frozen under both of its names."""
    if isinstance(freeze, int):
        return _first_blocks(model, freeze)
    names = list(model.network.named_parameters(remove_duplicate=False))
    frozen: set[int] = set()
    for pattern in freeze:
        matching = {id(weight) for name, weight in names if fnmatchcase(name, pattern)}
        if not matching:
            raise SpecError(
                f"method.freeze: no weight is called {pattern!r}.",
                remedy=f"Names look like {names[1][0]}; * stands for anything.",
                code="freeze",
            )
        frozen |= matching
    return frozen


def _first_blocks(model: Model, count: int) -> set[int]:
    blocks = model.blocks()
    if not 0 <= count <= len(blocks):
        raise SpecError(
            f"method.freeze = {count}, but the model has {len(blocks)} blocks.", remedy=f"Choose 0 to {len(blocks)}.", code="freeze"
        )
    if not count:
        return set()
    embeddings = [
        m for m in cast(nn.Module, model.network.base_model).children() if isinstance(m, nn.Embedding)
    ]  # GPT-2 has one for positions too
    return {id(weight) for module in [*embeddings, *blocks[:count]] for weight in module.parameters()}


@torch.no_grad()
def _copy(weights: dict[str, nn.Parameter], state: dict[str, Tensor]) -> None:
    if weights.keys() != state.keys():
        odd = sorted(weights.keys() ^ state.keys())
        raise ModelError(
            f"{len(odd)} weights are on one side only: {', '.join(odd[:3])}.",
            remedy="It was saved from another model or freeze.",
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


def _read(folder: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as source:
            tensors |= {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118 - not a dict
    return tensors
