"""PiSSA: the low-rank delta begins as the strongest part of the weight itself, which stops being frozen (arXiv 2404.02948).

R rank, I inputs and O outputs of the linear.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from luthier.methods._lowrank import LowRank, added, dice, laid

EXACT = 2048
"""Smaller side of a matrix up to which all singular values are computed; beyond it the first ones, by 16 random iterations (section 4,
"fast singular value decomposition": they differ little after so many)."""


class Anchored(nn.Module):
    """``y = W x + s (B A - B0 A0) x``, where ``s B0 A0`` are the R strongest singular directions of W (eq. 2 and 3)::

        W = U S V^T      A0 = sqrt(S / s)[:R] V^T[:R]      B0 = U[:, :R] sqrt(S / s)[:R]

    The paper freezes ``W - s B0 A0`` instead; that is the same function with the same gradients, but here the base stays as it is, so
    that it can be asked, packed, and shared with other adapters. On disk it is a plain LoRA of rank 2 R.

    Args:
        base: the linear it will stand at. low: its low-rank part, which begins as A0, B0. path: of the linear.
    """

    def __init__(self, base: nn.Module, low: LowRank, *, seed: int, path: str) -> None:
        super().__init__()
        self.low = low
        self.first_RI: Tensor
        self.second_OR: Tensor
        first, second = _strongest(base, low, seed=seed, path=path)
        self.register_buffer("first_RI", first, persistent=False)
        self.register_buffer("second_OR", second, persistent=False)
        with torch.no_grad():
            low.A.copy_(first)
            low.B.copy_(second)

    @property
    def strength(self) -> float:
        """1 is as trained, 0 is the base."""
        return self.low.strength

    @strength.setter
    def strength(self, value: float) -> None:
        self.low.strength = value

    def _factors(self) -> tuple[Tensor, Tensor]:
        """The change as one product of rank 2 R."""
        return torch.cat([self.low.A, self.first_RI]), torch.cat([self.low.B, -self.second_OR], dim=1)

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """``base(x)`` and the change."""
        dropout = self.low.dropout if self.training else 0.0
        return added(x, base, *self._factors(), self.low.scale, dropout=dropout)

    def parts(self) -> dict[str, nn.Parameter]:
        """What learns, by PEFT's names."""
        return self.low.parts()

    def saved(self) -> tuple[dict[str, Tensor], float]:
        """A plain LoRA of twice the rank, and the alpha that keeps its scale."""
        first, second = self._factors()
        plain_scale = self.low.full_scale == self.low.alpha / self.low.rank
        return {"lora_A.weight": first, "lora_B.weight": second}, self.low.alpha * (2 if plain_scale else 2**0.5)

    def merge_into(self, base: nn.Module) -> None:
        """Let `base` compute the same by itself."""
        weight, (first, second) = cast(Tensor, base.weight), self._factors()
        weight.data = (weight.float() + laid(self.low.scale * (second @ first), base)).to(weight.dtype)


@torch.no_grad()
def _strongest(base: nn.Module, low: LowRank, *, seed: int, path: str) -> tuple[Tensor, Tensor]:
    weight_OI = laid(cast(Tensor, base.weight), base).float()
    if weight_OI.is_meta:
        return torch.empty_like(low.A), torch.empty_like(low.B)
    if min(weight_OI.shape) <= EXACT:
        u, s, vt = torch.linalg.svd(weight_OI, full_matrices=False)
        u_OR, s_R, vt_RI = u[:, : low.rank], s[: low.rank], vt[: low.rank]
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(dice(seed, path).initial_seed())
            u_OR, s_R, v_IR = torch.svd_lowrank(weight_OI, low.rank, niter=16)
            vt_RI = v_IR.T
    root_R = (s_R / low.full_scale).sqrt()
    return root_R[:, None] * vt_RI, u_OR * root_R
