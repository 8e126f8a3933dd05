"""Several processes that take one step together: each computes its share of the forests, and all add up the same gradient.

    leader   (rank 0)   say(ADVANCE) - own forests - add(gradient) - same update     checkpoints, events, files
    follower (rank 1)   hear()       - own forests - add(gradient) - same update     nothing but its weights

Every process plans the whole step from the same rows, so the learned weight it divides by is that of the whole step and the sum of the
gradients is the gradient: one process and several differ by the order of a sum. Commands travel over gloo, gradients over gloo or NCCL.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from luthier.core.errors import ResultError

POLL_SECONDS = 0.0002
"""Between two looks at a sum on an accelerator: short beside any step, long enough to leave the core alone."""

LOOKS = 100
"""How often a leader whose exchange failed looks who is gone, 20 ms apart."""


class Command(IntEnum):
    """What a leader tells its followers to do now."""

    ADVANCE = 1
    VALIDATE = 2


class Alone:
    """One process: every sum is already complete. A null object, so that no step asks whether there are others."""

    rank, size = 0, 1

    def say(self, command: Command) -> None:
        """Nobody to tell."""

    def add(self, tensor: Tensor) -> None:
        """Already the sum."""


class Team:
    """This process as one of several in torch's default process group, which must exist.

    Args:
        check: raises with the reason when another process is gone; called while waiting and after a failed exchange.
    """

    def __init__(self, *, check: Callable[[], None] = lambda: None) -> None:
        self.rank, self.size, self.check = dist.get_rank(), dist.get_world_size(), check

    def say(self, command: Command) -> None:
        """Leader: tell the others what comes next. Follower: nothing, it was told."""
        if self.rank == 0:
            self._wait(lambda: dist.broadcast(torch.tensor([int(command)]), 0, async_op=True))

    def hear(self) -> Command:
        """Follower: wait for the next command."""
        command = torch.zeros(1, dtype=torch.int64)
        self._wait(lambda: dist.broadcast(command, 0, async_op=True))
        return Command(int(command))

    def add(self, tensor: Tensor) -> None:
        """Put the sum over all processes in place of `tensor`; bit for bit the same everywhere.

        Raises:
            ResultError: another process is gone.
        """
        self._wait(lambda: dist.all_reduce(tensor, async_op=True), polled=tensor.is_cuda)

    def _wait(self, begin: Callable[[], Any], *, polled: bool = False) -> None:
        """gloo notices by itself that a peer is gone; NCCL would wait for ever, so an accelerator's sum is looked at."""
        try:
            work = begin()
            while polled and not work.is_completed():
                self.check()
                time.sleep(POLL_SECONDS)
            work.wait()
        except RuntimeError as error:
            if isinstance(error, ResultError):
                raise
            for _ in range(LOOKS):  # a killed process closes its connections a moment before it is gone
                self.check()
                time.sleep(0.02)
            raise ResultError(
                "The processes of this run lost each other.",
                where=f"process {self.rank + 1} of {self.size}",
                remedy="Go on from the last checkpoint with luthier tune --resume.",
                code="process_lost",
            ) from error
