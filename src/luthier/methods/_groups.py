"""How a method tells the optimiser what moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn


@dataclass(slots=True, frozen=True)
class ParameterGroup:
    """Parameters that train alike.

    Attributes:
        name: stable, for checkpoints, e.g. ``lora.B``.
        parameters: with their stable names.
        rate: multiplies the learning rate. decay: weight decay applies.
        begins: share of the run before which they stand still and get no gradient. most: the highest rate they ever take.
    """

    name: str
    parameters: list[tuple[str, nn.Parameter]]
    rate: float = 1.0
    decay: bool = False
    begins: float = 0.0
    most: float = math.inf
