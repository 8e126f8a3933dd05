"""AdamW on flat fp32 buffers: one buffer per parameter group, whatever the number of tensors."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Protocol

import torch
from torch import Tensor, nn

from luthier.core.spec import TrainSpec


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


class _Flat:
    """The fp32 master weights of one group and their gradient, each in one piece of memory.

    fp32 parameters become views of it, so that backward accumulates and the step updates them in place. Others (bf16) keep their own
    compute copy; `collect` adds their gradient to the master's, `publish` rounds the master back.
    """

    def __init__(self, parameters: list[tuple[str, nn.Parameter]]) -> None:
        self.parameters = parameters
        self.master = nn.Parameter(torch.cat([p.detach().reshape(-1).float() for _, p in parameters]))
        self.master.grad = torch.zeros_like(self.master)
        self.views: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        offset = 0
        for _, p in parameters:
            piece = slice(offset, offset + p.numel())
            weight, grad = self.master.data[piece].view(p.shape), self.master.grad[piece].view(p.shape)
            offset += p.numel()
            if p.dtype == torch.float32:
                p.data, p.grad = weight, grad
            else:
                self.views.append((p, weight, grad))

    def collect(self) -> None:
        for p, _, grad in self.views:
            if p.grad is not None:
                grad += p.grad
                p.grad = None

    def publish(self) -> None:
        for p, weight, _ in self.views:
            p.data.copy_(weight)


class Optimiser:
    """AdamW (arXiv 1711.05101) over the groups of a method.

    Args:
        groups: what trains. train: learning rate, decay and betas, derived.
    """

    def __init__(self, groups: Many[Group], train: TrainSpec) -> None:
        assert train.learning_rate != "auto", "derive the Spec first"
        self.rate = train.learning_rate
        self.groups = [g for g in groups if g.parameters]
        self.flats = [_Flat(g.parameters) for g in self.groups]
        self.adam = torch.optim.AdamW(
            [
                {"params": [flat.master], "weight_decay": train.weight_decay if g.decay else 0.0, "scale": g.rate, "lr": 0.0}
                for g, flat in zip(self.groups, self.flats, strict=True)
            ],
            betas=(0.9, train.beta2),
            eps=1e-8,
            fused=True,
        )

    def collect(self) -> None:
        """After each backward: add the gradients of compute copies to the masters'."""
        for flat in self.flats:
            flat.collect()

    def gradients(self) -> list[Tensor]:
        """The gradient gathered so far, one flat fp32 buffer per group, to be changed in place."""
        return [_gradient(flat) for flat in self.flats]

    def norm(self) -> Tensor:
        """Length of the whole gradient."""
        norm: Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(_gradient(flat)) for flat in self.flats]))
        return norm

    def pending_bytes(self) -> int:
        """Bytes of the moments that the first step will add; 0 after it."""
        return sum(2 * 4 * flat.master.numel() for flat in self.flats if not self.adam.state[flat.master])

    def step(self, share: float, *, norm: Tensor, clip: float) -> None:
        """Update with ``learning_rate * share``, the gradient scaled down to length `clip`, then forget the gradient."""
        scale = torch.clamp(clip / (norm + 1e-6), max=1.0)
        for flat, group in zip(self.flats, self.adam.param_groups, strict=True):
            _gradient(flat).mul_(scale)
            group["lr"] = self.rate * share * group["scale"]
        self.adam.step()
        for flat in self.flats:
            flat.publish()
        self.forget()

    def forget(self) -> None:
        """Drop the gradient gathered so far."""
        for flat in self.flats:
            flat.collect()
            _gradient(flat).zero_()

    def state(self) -> dict[str, Tensor]:
        """Masters and moments by name, as they are (not copies)."""
        state: dict[str, Tensor] = {}
        for group, flat in zip(self.groups, self.flats, strict=True):
            state[f"{group.name}.master"] = flat.master.detach()
            for key, value in self.adam.state[flat.master].items():
                state[f"{group.name}.{key}"] = value
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave, and publish the masters."""
        for group, flat in zip(self.groups, self.flats, strict=True):
            flat.master.data.copy_(state[f"{group.name}.master"])
            moments = {
                key: state[f"{group.name}.{key}"].to(flat.master.device, copy=True)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{group.name}.{key}" in state
            }
            if moments:
                self.adam.state[flat.master] = moments
            flat.publish()


def _gradient(flat: _Flat) -> Tensor:
    assert flat.master.grad is not None
    return flat.master.grad
