"""What recomputed blocks keep, moved out of an accelerator's memory: each block's state waits in main memory for its backward.

    forward     block 1 | block 2 | block 3 ...         the device
                    state 1 ->| state 2 ->| ...         a stream of its own, to pinned memory
    backward    ... block 3 | block 2 | block 1
                    ... state 2 ->| state 1 ->|         back, while the block behind it still computes

The program runs ahead of the device; without a bound it would ask for the memory of all states at once. So it waits for the copy before the
last one. Numbers travel as they are: nothing is rounded.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

AHEAD = 2
"""Copies that may be under way: one that travels, one that is being filled."""


@dataclass(slots=True, frozen=True)
class Away:
    """A state in main memory, and where it belongs."""

    host: Tensor
    home: torch.device


class Offload:
    """The way of one device's states to main memory and back, for `torch.autograd.graph.saved_tensors_hooks`."""

    def __init__(self, device: torch.device) -> None:
        self._device: Any = torch.get_device_module(device)
        self._side, self._under_way = self._device.Stream(), deque[Any]()

    def out(self, state: Tensor) -> Away:
        """Send a state to main memory. Its own memory is free as soon as it has left."""
        self._side.wait_stream(self._device.current_stream())
        with self._device.stream(self._side):
            host = torch.empty_like(state, device="cpu", pin_memory=state.is_cuda, memory_format=torch.contiguous_format)
            host.copy_(state, non_blocking=True)
        _used_by(self._side, state)
        self._pace()
        return Away(host, state.device)

    def back(self, away: Away) -> Tensor:
        """A state where it was. Its copy waits for nothing that the device still computes."""
        self._pace()
        with self._device.stream(self._side):
            state = away.host.to(away.home, non_blocking=True, copy=True)
        self._device.current_stream().wait_stream(self._side)
        _used_by(self._device.current_stream(), state)
        return state

    def _pace(self) -> None:
        """Wait until the device has come near: what was queued two calls ago is done."""
        done = self._device.Event()
        done.record(self._device.current_stream())
        self._under_way.append(done)
        if len(self._under_way) > AHEAD:
            self._under_way.popleft().synchronize()


def _used_by(stream: Any, tensor: Tensor) -> None:
    """Keep the tensor's memory from others until this stream has done with it; main memory has no streams."""
    if tensor.is_cuda:
        tensor.record_stream(stream)
