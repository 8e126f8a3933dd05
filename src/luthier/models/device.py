"""Where numbers lie: which device this process computes on, and how arrays get there."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def own_device() -> torch.device:
    """The accelerator of this process (the one made current, if there are several), else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def send(array: NDArray[Any], where: torch.device) -> Tensor:
    """A numpy array as a tensor on a device: a view on the CPU; elsewhere a copy from pinned memory that nobody waits for.

    Kernels are queued behind the copy, so the next forest travels while the present one is computed.
    """
    tensor = torch.from_numpy(array)
    return tensor if where.type == "cpu" else tensor.pin_memory().to(where, non_blocking=True)
