"""Masters and moments of one parameter group in flat buffers, and AdamW's update of a piece of them.

S numbers of the group, each parameter's span padded to whole 8-bit blocks; n numbers of a piece.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from luthier.engine.moments import BLOCK, Packed
from luthier.models.kernels import Step, kernels

CHUNK = 1 << 18
"""Weights updated at a time: 1 MB a buffer. 2**15 took twice as long on two cores (calls); whole tensors leave the cache between passes."""

CHUNK_THERE = 1 << 24
"""The same on an accelerator, where calls are dear and nothing stays in a cache anyway."""

BETA1 = 0.9
EPSILON = 1e-8


class Group(Protocol):
    """What a method says about parameters that train alike (``methods/_groups.py``)."""

    @property
    def name(self) -> str: ...
    @property
    def parameters(self) -> list[tuple[str, nn.Parameter]]: ...
    @property
    def rate(self) -> float: ...
    @property
    def decay(self) -> bool: ...
    @property
    def begins(self) -> float: ...
    @property
    def most(self) -> float: ...


def chunk(device: torch.device) -> int:
    """Weights updated at a time."""
    return CHUNK if device.type == "cpu" else CHUNK_THERE


class Scratch:
    """fp32 buffers of one chunk, made when first asked for: master, gradient (later the upper half), first and second moment."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[torch.device, int], Tensor] = {}

    def take(self, device: torch.device, number: int, length: int) -> Tensor:
        """The first `length` numbers of buffer `number`."""
        key = (device, number)
        if key not in self._buffers:
            self._buffers[key] = torch.empty(chunk(device), device=device)
        return self._buffers[key][:length]


class Flat:
    """State of one group.

    Args:
        lean: moments in 8 bits, and of the masters of bf16 weights only what the weights do not say; else everything in fp32.

    Attributes:
        whole: every parameter is a view of `master` and its gradient one of `sums`, so that backward accumulates in place and the group
            is updated in one piece: fp32 parameters that are not lean.
        count: updates done.
        waits: the group does not move yet.
    """

    def __init__(self, group: Group, decay: float, *, lean: bool, scratch: Scratch) -> None:
        self.group, self.decay, self.lean, self.scratch, self.count = group, decay, lean, scratch, 0
        self.waits = False
        self.spans: dict[nn.Parameter, slice] = {}
        self.size = 0
        for _, p in group.parameters:
            self.spans[p] = slice(self.size, self.size + p.numel())
            self.size += -(-p.numel() // BLOCK) * BLOCK
        self.device = group.parameters[0][1].device
        self.whole = not lean and all(p.dtype == torch.float32 for p in self.spans)
        self.master: Tensor | None = None
        self.sums: Tensor | None = None
        self.lower: Tensor | None = None
        self.gathered: Tensor | None = None
        self.moments: tuple[Tensor | Packed, Tensor | Packed] | None = None
        if not lean:
            self._take_masters()
        elif any(p.dtype != torch.float32 for p in self.spans):
            self.lower = torch.zeros(self.size, dtype=torch.int16, device=self.device)

    def _take_masters(self) -> None:
        self.master = torch.zeros(self.size, device=self.device)
        if self.whole:
            self.sums = torch.zeros(self.size, device=self.device)
        for p, span in self.spans.items():
            self.master[span].copy_(p.detach().reshape(-1))
            if self.sums is not None:
                p.data, p.grad = self.master[span].view(p.shape), self.sums[span].view(p.shape)

    @property
    def moment_bytes(self) -> int:
        """Bytes the moments take, or will take."""
        return self.size * 2 + 8 * self.size // BLOCK if self.lean else self.size * 8

    def sum_of(self, p: nn.Parameter) -> Tensor:
        """Where fp32 sums of the gradients of `p` are kept when a step has several forests; one buffer, made when first asked for."""
        if self.gathered is None:
            self.gathered = torch.empty(self.size, device=self.device)
        return self.gathered[self.spans[p]].view(p.shape)

    def ready(self) -> None:
        """Make the moments; the first step does."""
        if self.moments is not None:
            return
        if self.lean:
            self.moments = (
                Packed.zeros(self.size, signed=True, device=self.device),
                Packed.zeros(self.size, signed=False, device=self.device),
            )
        else:
            self.moments = (torch.zeros(self.size, device=self.device), torch.zeros(self.size, device=self.device))

    def state(self) -> dict[str, Tensor]:
        """Buffers by name, as they are."""
        found = {"master": self.master, "lower": self.lower}
        if self.moments is not None:
            for name, moment in zip(("exp_avg", "exp_avg_sq"), self.moments, strict=True):
                if isinstance(moment, Packed):
                    found |= {f"{name}.codes": moment.codes, f"{name}.scales": moment.scales}
                else:
                    found[name] = moment
            found["step"] = torch.tensor(float(self.count))
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave, and publish the masters."""
        if "step" in state:
            self.ready()
            self.count = int(state["step"])
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        if self.master is not None:
            for p, span in self.spans.items():
                p.data.copy_(self.master[span].view(p.shape))

    def update(self, gradient: Tensor, p: nn.Parameter | None, *, rate: float, beta2: float, divisor: Tensor) -> None:
        """One AdamW update, of one parameter or (None) of the whole buffer. `gradient` is divided by `divisor`, and used up."""
        if p is None:
            self._update(slice(0, self.size), None, gradient, rate=rate, beta2=beta2, divisor=divisor)
            return
        start, weight, gradient, size = self.spans[p].start, p.data.view(-1), gradient.reshape(-1), chunk(self.device)
        if self.lean and self._update_bytes(start, weight, gradient, rate=rate, beta2=beta2, divisor=divisor):
            return
        for first in range(0, len(weight), size):
            piece = slice(first, min(first + size, len(weight)))
            place = slice(start + piece.start, start + piece.stop)
            self._update(place, weight[piece], gradient[piece], rate=rate, beta2=beta2, divisor=divisor)

    def _update_bytes(self, start: int, weight: Tensor, gradient: Tensor, *, rate: float, beta2: float, divisor: Tensor) -> bool:
        """In one pass over everything, where there is a kernel for it: a third of the time of the pieces below."""
        assert self.moments is not None
        first, second = self.moments
        assert isinstance(first, Packed) and isinstance(second, Packed)
        length = len(weight)
        lower = None if self.lower is None or weight.dtype == torch.float32 else self.lower[start : start + length]
        step = Step(rate, self.decay, BETA1, beta2, EPSILON, self.count, divisor.float())
        return kernels(weight).adamw8bit(weight, lower, gradient, first.part(start, length), second.part(start, length), step)

    def _update(self, place: slice, weight: Tensor | None, gradient: Tensor, *, rate: float, beta2: float, divisor: Tensor) -> None:
        master, (first, second) = self._master(place, weight), self._moments(place)
        if gradient.dtype != torch.float32:
            gradient = self.scratch.take(self.device, 1, len(gradient)).copy_(gradient)
        torch._fused_adamw_(
            [master],
            [gradient],
            [first[: len(master)]],
            [second[: len(master)]],
            [],
            [torch.tensor(float(self.count), device=self.device)],
            lr=rate,
            beta1=BETA1,
            beta2=beta2,
            weight_decay=self.decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
            grad_scale=divisor,
        )
        self._keep(place, first, second)
        if weight is not None:
            self._publish(place, weight, master)

    def _master(self, place: slice, weight: Tensor | None) -> Tensor:
        """The fp32 numbers to update: where they are kept, or put together in a buffer."""
        if self.master is not None:
            return self.master[place]
        assert weight is not None
        if weight.dtype == torch.float32:
            return weight
        assert self.lower is not None
        master = self.scratch.take(self.device, 0, len(weight))
        master.view(torch.int32).copy_(weight.view(torch.int16)).bitwise_left_shift_(16).add_(self.lower[place])
        return master

    def _publish(self, place: slice, weight: Tensor, master: Tensor) -> None:
        """Round the master into the weight; lean, keep what was rounded off. Halves are rounded up, so that the rest fits 16 bits."""
        if self.master is not None:
            weight.copy_(master)
        elif self.lower is not None and weight.dtype != torch.float32:
            bits, upper = master.view(torch.int32), self.scratch.take(self.device, 1, len(master)).view(torch.int32)
            torch.add(bits, 0x8000, out=upper).bitwise_right_shift_(16)
            weight.view(torch.int16).copy_(upper)
            self.lower[place].copy_(bits.sub_(upper.bitwise_left_shift_(16)))

    def _moments(self, place: slice) -> tuple[Tensor, Tensor]:
        """Both moments as fp32: views, or unpacked into buffers of whole blocks."""
        assert self.moments is not None
        first, second = self.moments
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            return first[place], second[place]
        assert isinstance(first, Packed) and isinstance(second, Packed)
        padded = -(-(place.stop - place.start) // BLOCK) * BLOCK
        first_n, second_n = self.scratch.take(self.device, 2, padded), self.scratch.take(self.device, 3, padded)
        first.read(place.start, first_n)
        second.read(place.start, second_n)
        return first_n, second_n.square_()

    def _keep(self, place: slice, first_n: Tensor, second_n: Tensor) -> None:
        assert self.moments is not None
        first, second = self.moments
        if isinstance(first, Packed) and isinstance(second, Packed):
            first.write(place.start, first_n)
            second.write(place.start, second_n.sqrt_())
