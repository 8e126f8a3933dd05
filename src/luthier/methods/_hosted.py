"""What methods that host their deltas in slots have in common: finding them, letting them train, taking over a state, merging.

A delta of such a method is an ``nn.Module`` with ``forward(x, base)``; ``merge_into(base)`` where the algebra allows a merge; and
``strength`` (1 is as trained, 0 is the base) where its part can be scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from luthier.core.errors import ModelError
from luthier.models import slot
from luthier.models.model import Model
from luthier.models.quantize import unpack


class Hosted:
    """What such methods do alike; a method adds what it places, which of it learns (`_parameters`), and its files.

    Attributes:
        name: of its deltas, once there are some.
    """

    name = ""

    def deltas(self, model: Model) -> dict[str, Any]:
        """This method's deltas by the path of their module."""
        return deltas(model, self.name)

    def _take_over(self, model: Model, name: str) -> None:
        self.name = name
        take_over(model, name)

    def _parameters(self, model: Model) -> dict[str, nn.Parameter]:
        raise NotImplementedError

    def state(self, model: Model) -> dict[str, Tensor]:
        """What learns, fp32. Views, not copies."""
        return {name: p.detach() for name, p in self._parameters(model).items()}

    def load_state(self, model: Model, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ModelError: names or shapes differ.
        """
        copy_state(self._parameters(model), state)

    def active(self, model: Model, on: bool) -> AbstractContextManager[None]:
        """Answers of this adapter, or of the base, for a while."""
        return slot.answering(model.network, self.name if on else None)


def deltas(model: Model, name: str) -> dict[str, Any]:
    """The deltas called `name` by the path of the module they stand at."""
    hosted = {path: place.delta(name) for path, place in slot.slots(model.network).items()}
    return {path: delta for path, delta in hosted.items() if delta is not None}


def take_over(model: Model, name: str) -> None:
    """Only the deltas called `name` train, and they answer."""
    model.network.requires_grad_(False)
    for delta in deltas(model, name).values():
        delta.requires_grad_(True)
    slot.activate(model.network, name)


@torch.no_grad()
def copy_state(parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Put `state` into `parameters`, all of it or nothing.

    Raises:
        ModelError: names or shapes differ.
    """
    for name in sorted(parameters.keys() | state.keys()):
        if name not in parameters or name not in state or parameters[name].shape != state[name].shape:
            raise ModelError(f"{name} does not fit.", remedy="It was saved from another model, or with other settings.", code="state")
    for name, parameter in parameters.items():
        parameter.copy_(state[name])


@torch.no_grad()
def merge(model: Model, name: str) -> None:
    """Fold every delta called `name` into its module and take the slots out; a packed base is unpacked for it.

    Raises:
        ModelError: the slots host other deltas too.
    """
    places = slot.slots(model.network)
    for path, place in places.items():
        if set(place.deltas) - {slot.key(name)}:
            raise ModelError(f"{path} hosts another adapter besides {name!r}.", remedy="Merge into a model that hosts one.", code="adapter")
    unpack(model.network)
    for place in places.values():
        delta: Any = place.delta(name)
        delta.merge_into(place.base)
    slot.restore(model.network)


def add_to_bias(module: nn.Module, change: Tensor) -> None:
    """``bias + change``, in fp32 and rounded once."""
    bias: Any = module.bias
    bias.data = (bias.float() + change).to(bias.dtype)
