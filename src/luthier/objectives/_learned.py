"""What an objective sees of a forest: the learned list, without the engine around it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy


class Learned(Protocol):
    """N learned pairs: how much each counts, and which sequence it belongs to."""

    @property
    def weights_N(self) -> NDArray[np.float32]: ...
    @property
    def sequences_N(self) -> NDArray[np.int64]: ...


def negative_log_likelihood(logprobs_N: Tensor, learned: Learned) -> Tensor:
    """``-sum_n w_n log p_n`` in nats."""
    weights_N: Any = learned.weights_N
    return -(from_numpy(weights_N).to(logprobs_N.device) * logprobs_N).sum()
