"""Base and tuned of one run, side by side, whichever way the method lets one have both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from luthier.models.load import reload
from luthier.models.model import Model

Side = Literal["base", "tuned"]
SIDES: tuple[Side, Side] = ("base", "tuned")


class Method(Protocol):
    """What is asked of a method here (``methods/``)."""

    supports: frozenset[str]

    def active(self, model: Model, on: bool) -> AbstractContextManager[None]: ...


@dataclass
class Sides:
    """Two answers to every question.

    Attributes:
        model: the tuned model. method: the one it was tuned with; None where there is no tuning, and both sides are the model itself.
        again: loads the untouched base where the method overwrote it.
    """

    model: Model
    method: Method | None = None
    again: Callable[[Model], Model] = reload
    _base: Model | None = field(default=None, repr=False)

    @contextmanager
    def side(self, which: Side) -> Iterator[Model]:
        """The model that answers as `which`, for a while. An untouched base is loaded on first use and kept."""
        if self.method is None:
            yield self.model
        elif "swap" in self.method.supports:
            with self.method.active(self.model, which == "tuned"):
                yield self.model
        elif which == "tuned":
            yield self.model
        else:
            self._base = self._base or self.again(self.model)
            yield self._base
