"""What preference objectives read from a forest of pairs."""

from __future__ import annotations

from torch import Tensor

from luthier.objectives._forest import Forest

SIDES = ("chosen", "rejected")


def totals(forest: Forest, values_N: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sums over the chosen and over the rejected answer of each row, ``[P]`` each."""
    weighted_N = forest.weights_N * values_N
    chosen, rejected = (forest.total(weighted_N, side) for side in SIDES)
    return chosen, rejected


def means(forest: Forest, values_N: Tensor) -> tuple[Tensor, Tensor]:
    """The same per token of each answer."""
    chosen, rejected = totals(forest, values_N)
    tokens = [forest.total(forest.weights_N, side).clamp(min=1e-9) for side in SIDES]
    return chosen / tokens[0], rejected / tokens[1]
