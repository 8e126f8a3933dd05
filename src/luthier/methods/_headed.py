"""A method and the head an objective put on the states: moved, saved and loaded as one, so that neither is ever without the other."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.core.files import new_folder
from luthier.methods._groups import ParameterGroup
from luthier.models.model import Model
from luthier.models.predictor import FOLDER, Predictor

PREFIX = "predictor."

MOST = 3e-3
"""Highest learning rate of a head whose states move: methods of few weights take ten times that, and a head that follows them runs wild. Of
luthier-mini's 77 intents of banking77 ia3 then learned 49 % instead of 37, prompt 22 instead of 9 (1e-2: 49 and 15)."""


class Headed:
    """Any method, with the model's predictor beside what it moves; offers what a method offers."""

    def __init__(self, method: Any) -> None:
        self.method = method
        self.supports: frozenset[str] = method.supports
        self.folder_name: str = method.folder_name

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)  # whatever else a method has is its own

    def groups(self, model: Model) -> list[ParameterGroup]:
        """What the method moves, and the head, which then takes no more than `MOST`."""
        own = [(PREFIX + name, p) for name, p in _predictor(model).named_parameters()]
        groups = self.method.groups(model)
        return [*groups, ParameterGroup("predictor", own, most=MOST if groups else math.inf)]

    def state(self, model: Model) -> dict[str, Tensor]:
        """Exactly what moves."""
        return {**self.method.state(model), **{PREFIX + name: p.detach() for name, p in _predictor(model).named_parameters()}}

    @torch.no_grad()
    def load_state(self, model: Model, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ModelError: names or shapes differ.
        """
        for name, p in _predictor(model).named_parameters():
            if PREFIX + name not in state or state[PREFIX + name].shape != p.shape:
                raise ModelError(f"{PREFIX + name} does not fit.", remedy="It was saved with a head of other labels.", code="state")
        self.method.load_state(model, {name: tensor for name, tensor in state.items() if not name.startswith(PREFIX)})
        for name, p in _predictor(model).named_parameters():
            p.copy_(state[PREFIX + name])

    def save(self, model: Model, folder: Path) -> None:
        """The method's own layout and the head in one folder, whole or not at all."""
        with new_folder(folder) as part:
            self.method.save(model, part / "weights")
            for file in sorted((part / "weights").iterdir()):
                file.rename(part / file.name)
            (part / "weights").rmdir()
            if not (part / FOLDER).is_dir():  # a whole model is saved with it
                _predictor(model).save(part)

    @classmethod
    def load(cls, kind: Any, model: Model, folder: Path, *, name: str = "tuned") -> Headed:
        """Attach what `save` wrote; `kind` is the class of the method.

        Raises:
            ModelError: the head is not there, or does not fit the model.
        """
        predictor = Predictor.load(folder, device=model.device)
        if predictor.weight.shape[1] != model.width:
            raise ModelError(
                f"The head reads states of width {predictor.weight.shape[1]}, {model.name} gives {model.width}.",
                where=str(folder),
                remedy="Load it on the base it was tuned on.",
                code="head_lost",
            )
        model.predictor = predictor
        return cls(kind.load(model, folder, name=name))

    def merge(self, model: Model) -> None:
        """Fold the method into the network; the head stays on the states."""
        self.method.merge(model)

    def active(self, model: Model, on: bool) -> AbstractContextManager[None]:
        """Answers of the method, or of the base, for a while."""
        found: AbstractContextManager[None] = self.method.active(model, on)
        return found


def _predictor(model: Model) -> Predictor:
    assert model.predictor is not None, "a headed method wants a model with a predictor"
    return model.predictor
