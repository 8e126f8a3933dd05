"""Norms on every head of q and k, before they are turned (Qwen3): the part of a fused block that only some families have.

T tokens, H query heads, K key-value heads, W width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.kernels import kernels


class HeadNorms:
    """The two norms of one attention.

    Args:
        attention: with ``q_norm`` and ``k_norm``, lean RMS norms over W. sizes: H W and K W, the columns of q and of k.
    """

    def __init__(self, attention: Any, sizes: list[int]) -> None:
        self.norms = [attention.q_norm, attention.k_norm]
        self.columns = [slice(0, sizes[0]), slice(sizes[0], sizes[0] + sizes[1])]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Their weights."""
        return [norm.weight for norm in self.norms]

    def forward(self, qkv: Tensor) -> list[Tensor]:
        """Norm q and k within ``[T, (H + 2K) W]``; returns what they were and what was found, for `backward`."""
        kept = []
        for norm, columns in zip(self.norms, self.columns, strict=True):
            raw = qkv[:, columns].reshape(-1, len(norm.weight))
            scale = raw.new_empty(len(raw), dtype=torch.float32)
            qkv[:, columns] = kernels(raw).rms_norm(raw, norm.weight, norm.epsilon, scale).view(len(qkv), -1)
            kept += [raw, scale]
        return kept

    def backward(self, dqkv: Tensor, kept: list[Tensor], grads: dict[int, Tensor]) -> None:
        """The gradient of ``qkv`` before the norms, in place; the weights' own go into `grads`."""
        for norm, columns, raw, scale in zip(self.norms, self.columns, kept[::2], kept[1::2], strict=True):
            g = dqkv[:, columns].reshape(raw.shape)
            if norm.weight.requires_grad:
                grads[id(norm.weight)] = norm.weight_gradient(g, raw, scale)
            dqkv[:, columns] = kernels(raw).rms_norm_back(g, raw, scale, norm.weight, None).view(len(dqkv), -1)
