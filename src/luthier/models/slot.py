"""Slots: places in a network where a method hosts its delta.

        x ---> [ Slot ] ---> y            active is None :  y = base(x)
                 |-- base                 active = "desk":  y = deltas["desk"](x, base)
                 `-- deltas: desk, mail

A delta may call ``base(x)``, change ``x`` before or ``y`` after. It never looks inside packed weights. Swapping adapters is naming
another one; the base's own answers are ``None``. An inactive slot costs one Python ``if``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, cast

from torch import Tensor, nn

from luthier.core.errors import ModelError


class Delta(Protocol):
    """What a slot hosts; also an ``nn.Module``. `merged` may be missing where a method does not support ``merge``."""

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """The changed output of `base` for input `x`."""
        ...

    def merged(self, base: nn.Module) -> Tensor:
        """The weight that makes a plain copy of `base` compute the same."""
        ...


class Slot(nn.Module):
    """A module of the network, and the deltas that may stand in front of it.

    Attributes:
        base: the module as it was. deltas: by key (`key`). active: name of the delta that answers, or None for the base.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.deltas = nn.ModuleDict()
        self.active: str | None = None
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """Base output, changed by the active delta."""
        if self.active is None:
            return cast(Tensor, self.base(x))
        return cast(Tensor, self.deltas[key(self.active)](x, self.base))

    def host(self, name: str, delta: nn.Module) -> None:
        """Take in a delta; it is not active by that."""
        self.deltas[key(name)] = delta

    def dismiss(self, name: str) -> None:
        """Let go of a delta, if it is hosted here."""
        if key(name) in self.deltas:
            del self.deltas[key(name)]

    def delta(self, name: str) -> nn.Module | None:
        """The delta called `name`, if it is hosted here."""
        return self.deltas[key(name)] if key(name) in self.deltas else None  # noqa: SIM401 - ModuleDict has no get

    @property
    def current(self) -> nn.Module | None:
        """The delta that answers now; None is the base."""
        return None if self.active is None else self.delta(self.active)

    @property
    def weight(self) -> Tensor:
        """The base's weight: some model code looks at its dtype."""
        return cast(Tensor, self.base.weight)


def key(name: str) -> str:
    """Name of a delta as ``nn.ModuleDict`` takes it: no dots, and never one of the dict's own methods."""
    return "delta_" + name.replace(".", "/")


def slots(network: nn.Module) -> dict[str, Slot]:
    """Every slot by the path of the module it stands for, e.g. ``model.layers.0.mlp.up_proj``."""
    return {path: module for path, module in network.named_modules() if isinstance(module, Slot)}


def place(network: nn.Module, path: str) -> Slot:
    """Put a slot around the module at `path`, or find the one that is there."""
    module = network.get_submodule(path)
    if isinstance(module, Slot):
        return module
    slot = Slot(module)
    _put(network, path, slot)
    return slot


def restore(network: nn.Module) -> None:
    """Take all slots out again; what they hosted is gone, the network is plain."""
    for path, slot in slots(network).items():
        _put(network, path, slot.base)


def activate(network: nn.Module, name: str | None) -> None:
    """Let the delta called `name` answer wherever it is hosted, and the base everywhere else."""
    for slot in slots(network).values():
        slot.active = name if name is not None and slot.delta(name) is not None else None


def answers(network: nn.Module) -> str | None:
    """Name of the delta that answers now; None is the base."""
    return next((slot.active for slot in slots(network).values() if slot.active is not None), None)


@contextmanager
def answering(network: nn.Module, name: str | None) -> Iterator[None]:
    """`activate` for a while."""
    before = {slot: slot.active for slot in slots(network).values()}
    activate(network, name)
    try:
        yield
    finally:
        for slot, active in before.items():
            slot.active = active


def strengthen(network: nn.Module, name: str, strength: float) -> None:
    """Scale what the deltas called `name` do: 1 is as trained, 0 is the base.

    Raises:
        ModelError: nothing is called so here, or it has no strength (what stands before a row has none).
    """
    found = [delta for place in slots(network).values() if (delta := place.delta(name)) is not None]
    if not found:
        raise ModelError(f"There is no adapter called {name!r} here.", remedy="Attach or load it first.", code="adapter")
    if any(not hasattr(delta, "strength") for delta in found):
        raise ModelError(f"{name!r} is an adapter without a strength.", remedy="Serve it as it is.", code="combine")
    for delta in found:
        setattr(delta, "strength", strength)  # noqa: B010 - nn.Module's own attribute


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).register_module(name, module)
