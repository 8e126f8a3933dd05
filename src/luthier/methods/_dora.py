"""DoRA: a low-rank delta changes the direction of each output's weights, and their length learns by itself (arXiv 2402.09353).

R rank, T tokens, I inputs and O outputs of the linear.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from luthier.methods._lowrank import LowRank, laid


class Dora(nn.Module):
    """A delta for a linear (eq. 5): ``W' = m (W + s B A) / |W + s B A|``, lengths taken over the inputs of each output.

    `m` ``[O]`` begins as the lengths of `W`, so that nothing changes before the first step. The length below the line gets no gradient
    (section 4.3). It is computed without making ``B A``: ``|W + s B A|^2 = |W|^2 + 2 s <W A^T, B> + s^2 <B A A^T, B>``.

    Args:
        base: the linear it will stand at. low: its low-rank part.

    Attributes:
        strength: 1 is as trained, 0 is the base, between them the outputs are mixed.
    """

    def __init__(self, base: nn.Module, low: LowRank) -> None:
        super().__init__()
        self.low, self.strength = low, 1.0
        self.squares_O: Tensor
        weight_OI = laid(cast(Tensor, base.weight), base).detach()
        self.register_buffer("squares_O", weight_OI.float().square().sum(1), persistent=False)
        self.magnitude = nn.Parameter(self.squares_O.sqrt())

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """``base(x)`` and what the changed direction and length add; dropped inputs are dropped from all of it, as PEFT does."""
        low, bias = self.low, cast("Tensor | None", base.bias)
        y: Tensor = base(x)
        dropped = low.training and low.dropout > 0
        seen = F.dropout(x, low.dropout, low.training)
        straight = base(seen) if dropped else y
        ratio_O = (self.magnitude / self.lengths(base).detach()).to(y.dtype)
        h = F.linear(F.linear(seen, low.A.to(x.dtype)), low.B.to(x.dtype))
        straight = straight if bias is None else straight - bias
        return y + self.strength * ((ratio_O - 1) * straight + ratio_O * low.scale * h)

    def lengths(self, base: nn.Module) -> Tensor:
        """``|W + s B A|`` of each output, ``[O]`` in fp32."""
        weight_OI, low = laid(cast(Tensor, base.weight), base), self.low
        cross_OR = F.linear(weight_OI, low.A.to(weight_OI.dtype)).float()
        squares = self.squares_O + 2 * low.scale * (cross_OR * low.B).sum(1) + low.scale**2 * ((low.B @ (low.A @ low.A.T)) * low.B).sum(1)
        return squares.clamp(min=torch.finfo(torch.float32).tiny).sqrt()

    def parts(self) -> dict[str, nn.Parameter]:
        """What learns, by PEFT's names."""
        return {**self.low.parts(), "lora_magnitude_vector": self.magnitude}

    def saved(self) -> tuple[dict[str, Tensor], float]:
        """What is written to disk, by PEFT's names, and its alpha."""
        return dict(self.parts()), self.low.alpha

    def merge_into(self, base: nn.Module) -> None:
        """Let `base` compute the same by itself."""
        weight: Any = base.weight
        sum_OI = laid(weight.float(), base) + self.low.scale * (self.low.B @ self.low.A)
        tuned_OI = (self.magnitude / torch.linalg.vector_norm(sum_OI, dim=1))[:, None] * sum_OI
        mixed = torch.lerp(weight.float(), laid(tuned_OI, base), self.strength)
        weight.data = mixed.to(weight.dtype)
