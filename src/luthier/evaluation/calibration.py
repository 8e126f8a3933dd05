"""Is a head as sure as it is right? Its outputs are divided by one temperature, fitted on held-out rows (Guo et al., arXiv 1706.04599).

The temperature changes how sure a head is, hardly ever what it says: never for one label of several, an order, a tag or a ranking.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from luthier.models.predictor import Kind

FEWEST = 20
"""Fewer held-out rows say too little: the temperature stays 1."""

RANGE = (0.05, 20.0)
"""Temperatures that are tried."""

BINS = 15
"""Of the expected calibration error, as in the paper."""


def temperature(kind: Kind, outputs_NC: NDArray[np.float32], targets: NDArray[Any]) -> float:
    """The temperature under which the right answers are likeliest; 1 where there are too few rows, or nothing is a probability."""
    if kind in ("number", "ranking") or len(outputs_NC) < FEWEST:
        return 1.0
    from scipy.optimize import minimize_scalar

    outputs, wanted = torch.from_numpy(outputs_NC).double(), torch.from_numpy(np.asarray(targets))
    low, high = np.log(RANGE)
    found = minimize_scalar(lambda x: _surprise(kind, outputs / float(np.exp(x)), wanted), bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


def _surprise(kind: Kind, outputs_NC: Tensor, targets: Tensor) -> float:
    if kind in ("class", "tags"):
        return F.cross_entropy(outputs_NC, targets).item()
    return F.binary_cross_entropy_with_logits(outputs_NC, targets.double()).item()


def error(sure_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> float:
    """Expected calibration error, 0 to 1: how far sureness and rightness lie apart, over bins of equal width, weighted by rows (eq. 3)."""
    bins = np.minimum((sure_N * BINS).astype(int), BINS - 1)
    gaps = [abs(sure_N[bins == b].sum() - right_N[bins == b].sum()) for b in range(BINS)]
    return float(sum(gaps) / max(len(sure_N), 1))
