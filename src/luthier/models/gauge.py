"""Memory of the device that computes: what is free, what this process has taken, and the highest it has been."""

from __future__ import annotations

from typing import Protocol

import torch

from luthier.models.machine import memory, resident


class Gauge(Protocol):
    """Bytes of one device's memory."""

    def free(self) -> int:
        """What may still be taken."""
        ...

    def taken(self) -> int:
        """What this process has now."""
        ...

    def reset(self) -> None:
        """Forget the highest mark."""
        ...

    def peak(self) -> int:
        """The highest since `reset`."""
        ...


class Main:
    """Main memory."""

    def free(self) -> int:
        """Inside of a container what its limit leaves."""
        return memory()[1]

    def taken(self) -> int:
        """Resident set of the process."""
        return resident()

    def reset(self) -> None:
        """Linux forgets the high-water mark when asked; elsewhere it stays the highest so far, which only overestimates."""
        try:
            with open("/proc/self/clear_refs", "w") as ask:
                ask.write("5")
        except OSError:
            pass

    def peak(self) -> int:
        """High-water mark of the resident set."""
        try:
            with open("/proc/self/status") as lines:
                return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
        except (OSError, StopIteration):
            return resident()


class Card:
    """An accelerator's own memory, as torch's allocator tells of it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def free(self) -> int:
        """What other programs and this one have left."""
        return int(torch.cuda.mem_get_info(self.device)[0])

    def taken(self) -> int:
        """What the allocator holds, in use or not."""
        return torch.cuda.memory_reserved(self.device)

    def reset(self) -> None:
        """The highest mark is what is in use now; what is not goes back."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        """Most bytes in tensors at once."""
        return torch.cuda.max_memory_allocated(self.device)


def gauge_of(device: torch.device) -> Gauge:
    """The gauge of the memory in which a model on `device` lies."""
    return Card(device) if device.type == "cuda" else Main()
