"""CUDA graphs: work that is the same at every call - same kernels, same memory - is recorded once and replayed in one launch.

A step of decoding is some hundred small kernels, and queueing them one by one takes longer than computing them. What a step reads and
writes has to stay where it is, and whatever changes from step to step has to be a number on the device (`models/steady.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor

DEVICES = frozenset({"cuda"})
"""Where it pays. A CPU computes as it is told: there is nothing to queue."""

Again = Callable[[], Tensor]
"""Does the work once more; the result is always the same tensor."""


def record(work: Callable[[], Tensor]) -> Again:
    """Record `work` as a CUDA graph, without doing it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def again() -> Tensor:
        graph.replay()
        return result

    return again


class Replay:
    """Does `work` at every call.

    The first call with a key does it as it is written, so that libraries make what they need; the second records it. What cannot be
    recorded (it asks the device for a number, say) goes on as it is written.

    Args:
        recorder: of the work.

    Attributes:
        refused: why nothing is recorded; empty where it is.
    """

    def __init__(self, work: Callable[[], Tensor], *, recorder: Callable[[Callable[[], Tensor]], Again] = record) -> None:
        self.work, self.recorder, self.refused = work, recorder, ""
        self._key: Hashable = None
        self._again: Again | None = None

    def __call__(self, key: Hashable) -> Tensor:
        """The result; it is overwritten by the next call.

        Args:
            key: another one where shapes or places in memory have changed since the last call.
        """
        if key != self._key:
            self._key, self._again = key, None
            return self.work()
        if self._again is None and not self.refused:
            try:
                self._again = self.recorder(self.work)
            except RuntimeError as error:
                self.refused = str(error).splitlines()[0]
        return self._again() if self._again else self.work()
