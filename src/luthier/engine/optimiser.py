"""AdamW over the groups of a method, in as much memory as there is. Bytes for each bf16 weight that trains, beside the weight itself:

    adamw       4 master + 8 moments + 2 gradient             (4 more for the sum where a step has several forests)
    adamw8bit   2 lower half of the master + 2 moments + 2    (the same)
    layerwise   2 lower half of the master + 2 moments        each gradient is used and dropped as soon as backward has it

The master is fp32 in every case: a bf16 weight is its upper half, rounded, and `lower` holds what is missing. fp32 weights need neither.
Conversion, clipping and publishing happen chunk by chunk in the cache (``engine/flat.py``): none is a pass of its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from collections.abc import Sequence as Many

import torch
from torch import Tensor, nn

from luthier.core.spec import TrainSpec
from luthier.engine.flat import Flat, Group, Scratch

_AWAITED = "awaited_by"
"""Attribute of a parameter: whose `Optimiser.expect` was the last."""


class Optimiser:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101).

    Args:
        groups: what trains. train: learning rate, decay, beta2 and optimiser, derived.

    Attributes:
        layerwise: parameters are updated during backward; a step is one forest, and each gradient is clipped by its own length.
    """

    def __init__(self, groups: Many[Group], train: TrainSpec) -> None:
        assert train.learning_rate != "auto", "derive the Spec first"
        self.rate, self.beta2 = train.learning_rate, train.beta2
        self.layerwise = train.optimiser == "layerwise"
        lean, scratch = train.optimiser in ("adamw8bit", "layerwise"), Scratch()
        self.flats = [Flat(g, train.weight_decay if g.decay else 0.0, lean=lean, scratch=scratch) for g in groups if g.parameters]
        self._home = {p: flat for flat in self.flats for p in flat.spans}
        self._several, self._name = False, object()
        self._begun: set[nn.Parameter] = set()  # whose sums of several forests hold something
        self._squares: list[Tensor] | None = None  # of the lengths of gradients, while a layerwise step is under way
        self._share, self._clip = 0.0, 0.0
        _listen(self, [p for flat in self.flats if not flat.whole for p in flat.spans])

    def expect(self, forests: int) -> None:
        """The coming gradient is the sum of so many backwards: more than one are added up in fp32."""
        assert forests <= 1 or not self.layerwise, "a layerwise step is one forest"
        self._several = forests > 1
        for flat in self.flats:
            if not flat.whole:
                for p in flat.spans:
                    vars(p)[_AWAITED] = self._name

    def begin(self, share: float, *, clip: float, progress: float = 1.0) -> None:
        """A step begins: layerwise, the coming backward updates, as `step` will be told.

        Args:
            progress: share of the run that is done; groups that begin later stand still and get no gradient.
        """
        for flat in (flat for flat in self.flats if flat.group.begins):
            flat.waits = progress < flat.group.begins
            for p in flat.spans:
                p.requires_grad_(not flat.waits)
        if self.layerwise:
            self._squares, self._share, self._clip = [], share, clip

    def arrived(self, p: nn.Parameter) -> None:
        """Backward of one forest has the whole gradient of `p`. It belongs to the optimiser that expected one last: that of a rehearsal may
        still be alive."""
        if vars(p).get(_AWAITED) is not self._name:
            return
        assert p.grad is not None
        if self.layerwise:
            if self._squares is not None:
                self._update_now(p, p.grad, self._squares)
            p.grad = None
        elif self._several and p.dtype != torch.float32:
            self._add(p, p.grad)

    @torch.no_grad()
    def _add(self, p: nn.Parameter, gradient: Tensor) -> None:
        sum_ = self._home[p].sum_of(p)
        sum_.add_(gradient) if p in self._begun else sum_.copy_(gradient)
        self._begun.add(p)
        p.grad = None

    def gradients(self) -> list[Tensor]:
        """The gradient gathered so far in fp32, to be changed in place, in one order always; zeros where no forest reached a weight.

        For several processes that add theirs up; one alone has no need to make it: `norm` and `step` read bf16 gradients as they are.
        """
        assert not self.layerwise, "a layerwise gradient is never whole"
        for p, flat in self._home.items():
            if not flat.whole and p not in self._begun:
                self._add(p, torch.zeros_like(p) if p.grad is None else p.grad)
        return [*(flat.sums for flat in self.flats if flat.sums is not None), *(g for _, g in self._gathered())]

    def norm(self) -> Tensor:
        """Length of the whole gradient."""
        if self._squares is not None:
            return torch.stack(self._squares).sum().sqrt() if self._squares else torch.zeros(())
        whole = [flat.sums for flat in self.flats if flat.sums is not None]
        lengths = [torch.linalg.vector_norm(g, dtype=torch.float32) for g in (*whole, *(g for _, g in self._gathered()))]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(lengths)) if lengths else torch.zeros(())
        return norm

    def pending_bytes(self) -> int:
        """Bytes of the moments that the first step will add; 0 after it."""
        return sum(flat.moment_bytes for flat in self.flats if flat.moments is None)

    @torch.no_grad()
    def step(self, share: float, *, norm: Tensor, clip: float) -> None:
        """Update with ``learning_rate * share``, the gradient scaled down to length `clip`, then forget the gradient."""
        divisor = torch.clamp((norm + 1e-6) / clip, min=1.0)
        for flat in (flat for flat in self.flats if not flat.waits):
            flat.ready()
            flat.count += 1
            if flat.sums is not None:
                flat.update(flat.sums, None, rate=self._rate(flat, share), beta2=self.beta2, divisor=divisor)
        for p, gradient in self._gathered():
            flat = self._home[p]
            flat.update(gradient, p, rate=self._rate(flat, share), beta2=self.beta2, divisor=divisor)
        self.forget()

    def forget(self) -> None:
        """Drop the gradient gathered so far."""
        self._begun.clear()
        self._squares = None
        for flat in self.flats:
            if flat.sums is not None:
                flat.sums.zero_()
            else:
                for p in flat.spans:
                    p.grad = None

    def state(self) -> dict[str, Tensor]:
        """Masters and moments by name, as they are (not copies)."""
        return {f"{flat.group.name}.{key}": value for flat in self.flats for key, value in flat.state().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave, and publish the masters. A lower half belongs to its weight: load the weights first."""
        for flat in self.flats:
            prefix = f"{flat.group.name}."
            flat.load_state({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})

    def _rate(self, flat: Flat, share: float) -> float:
        return min(self.rate * flat.group.rate, flat.group.most) * share

    def _gathered(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Gradients that lie in no flat sum."""
        for p, flat in self._home.items():
            gradient = flat.sum_of(p) if p in self._begun else p.grad
            if not flat.whole and gradient is not None:
                yield p, gradient

    @torch.no_grad()
    def _update_now(self, p: nn.Parameter, gradient: Tensor, squares: list[Tensor]) -> None:
        """One parameter's part of a layerwise step. A gradient that is not finite changes nothing; the session sees it in `norm`."""
        flat, length = self._home[p], torch.linalg.vector_norm(gradient, dtype=torch.float32)
        squares.append(length.square())
        if not torch.isfinite(length):
            return
        flat.ready()
        flat.count += 1
        divisor = torch.clamp((length + 1e-6) / self._clip, min=1.0)
        flat.update(gradient, p, rate=self._rate(flat, self._share), beta2=self.beta2, divisor=divisor)
        flat.count -= 1  # `step` counts for all


def _listen(optimiser: Optimiser, parameters: list[nn.Parameter]) -> None:
    """Let backward call `arrived`. The hooks know the optimiser weakly and go with it: another session may train the same weights."""
    known = weakref.ref(optimiser)

    def hook(p: nn.Parameter) -> None:
        alive = known()
        if alive is not None:
            alive.arrived(p)

    handles = [p.register_post_accumulate_grad_hook(hook) for p in parameters]
    weakref.finalize(optimiser, lambda: [handle.remove() for handle in handles])
