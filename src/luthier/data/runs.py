"""Runs of neighbouring places in flat arrays, many at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spread(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of `counts[i]` neighbours from `starts[i]` on, one run behind the other."""
    until = np.cumsum(counts)
    places: NDArray[np.int64] = np.arange(until[-1] if len(until) else 0) + np.repeat(starts - (until - counts), counts)
    return places


def inside(starts: NDArray[np.int64], stops: NDArray[np.int64], length: int) -> NDArray[np.int8]:
    """1 at every place of runs that do not overlap, 0 elsewhere: ``[length]``."""
    turns = np.zeros(length + 1, np.int8)
    turns[starts] += 1
    turns[stops] -= 1  # a run may begin where another ends
    return np.cumsum(turns[:-1], dtype=np.int8)
