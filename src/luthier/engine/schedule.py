"""The learning rate of a step, as a share of the highest."""

from __future__ import annotations

import math

from luthier.core.spec import TrainSpec


def share(step: int, *, steps: int, train: TrainSpec) -> float:
    """Learning rate of `step` (0-based) of `steps`, between 0 and 1.

    Rises linearly over the first ``warmup`` share of the steps, then follows ``schedule`` down to ``final_rate``: cosine (SGDR,
    arXiv 1608.03983, eq. 5, one period), linear, or constant.
    """
    warm = math.ceil(train.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    if train.schedule == "constant" or steps <= warm + 1:
        return 1.0
    done = (step - warm) / (steps - warm - 1)
    left = 1 - done if train.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return train.final_rate + (1 - train.final_rate) * left
