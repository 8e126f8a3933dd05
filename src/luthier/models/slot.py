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


def _put(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).register_module(name, module)
