"""A look at the whole step before any gradient: for losses that are no sum over rows (an estimate over the batch, in-batch negatives).

Each forest gives a tensor of the same shape; their sum, over all forests and processes, is what every `loss` of the step then sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from luthier.engine.forest import Forest
from luthier.engine.tree import Pack
from luthier.models.model import Model


@runtime_checkable
class Surveys(Protocol):
    """An objective that looks before it leaps."""

    @property
    def aside(self) -> str:
        """The part of rows that is surveyed and never learned; empty: what is learned is surveyed itself."""

    def survey_shape(self, rows: int, width: int) -> tuple[int, ...]:
        """Shape of what a survey of so many rows gives, with states of so many numbers."""
        ...

    def survey(self, forest: Forest) -> Tensor:
        """This forest's share; zeros where another forest has something to say."""
        ...


def nothing(objective: object, rows: int, model: Model) -> Tensor | None:
    """The beginning of the sum; None where the objective wants no survey."""
    if not isinstance(objective, Surveys):
        return None
    return torch.zeros(objective.survey_shape(rows, model.width), device=model.device)


@torch.no_grad()
def survey(objective: Surveys, model: Model, packs: Iterable[Pack], found: Tensor) -> None:
    """Add what these forests say to `found`."""
    for pack in packs:
        found += objective.survey(Forest(model, pack, found))
