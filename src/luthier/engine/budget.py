"""How many tokens a forest holds where nobody said: by the machine, and by how much the rows of a run have in common."""

from __future__ import annotations

import numpy as np
import torch

from luthier.core.sequence import Row, Rows
from luthier.engine.order import Order
from luthier.engine.pack import FOREST_COSTS, packs

TOKENS_PER_PACK = 1280
"""Matmuls at full rate on a CPU, and a step of 8 to 16 short rows in one forest; more costs memory (docs/log.md)."""

TOKENS_PER_SHARED_PACK = 1600
"""Where rows begin alike: each forest repeats what its rows share with those of the others."""

WORTH_IT = 1 / 5
"""Share of a step's cost that has to be saved for the sixth of memory that the larger forests take."""

TOKENS_ON_ACCELERATOR = 8192
"""A hundred microseconds of launches a block hide behind matmuls of that height. Reckoned, not measured."""

WHOLE_STEP = 1 << 40
"""Budget of a layerwise step: its gradients cannot wait for a second forest."""

LOOKED_AT = 4
"""Steps that are laid out both ways."""


def usual(rows: Rows, order: Order, device: torch.device, *, parts: int = 1) -> int:
    """Tokens of a forest for these rows in this order.

    Args:
        parts: processes that share the forests of a step.
    """
    if device.type != "cpu":
        return TOKENS_ON_ACCELERATOR
    steps = np.linspace(0, order.steps - 1, min(LOOKED_AT, order.steps)).astype(int).tolist()
    drawn = [[rows[i] for i in order.rows(step)] for step in steps]
    plain, shared = (sum(_cost(step, budget, parts) for step in drawn) for budget in (TOKENS_PER_PACK, TOKENS_PER_SHARED_PACK))
    return TOKENS_PER_SHARED_PACK if shared <= (1 - WORTH_IT) * plain else TOKENS_PER_PACK


def _cost(rows: list[Row], budget: int, parts: int) -> int:
    return sum(FOREST_COSTS + len(pack.tokens_T) for pack in packs(rows, budget, parts=parts))
