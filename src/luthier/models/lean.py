"""The elementwise parts of a decoder block, computed as transformers does but keeping less for backward.

transformers' RMS norm and gated MLP leave autograd six tensors a block that can be had again from two; at 1,024 tokens of a 135 M model
that was half of the activations. The modules here stand in the places of transformers' own, under the same names, with the same weights;
results are equal to the last bit forward, and within rounding backward (``tests/models/test_lean.py``).

T tokens, D width of a state, F width of the MLP.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

NORMS = frozenset(
    {
        *("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm", "SmolLM3RMSNorm"),
        *("MixtralRMSNorm", "Qwen2MoeRMSNorm", "Qwen3MoeRMSNorm"),
    }
)
"""transformers' classes that compute ``weight * (x / rms(x)).to(dtype)``; Gemma's, which adds one to the weight, is not among them."""

MLPS = frozenset({"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "SmolLM3MLP", "Qwen2MoeMLP", "Qwen3MoeMLP"})
"""transformers' classes that compute ``down(silu(gate(x)) * up(x))``."""


class _RmsNorm(torch.autograd.Function):
    """``y = w * x / rms(x)`` (Zhang and Sennrich, arXiv 1910.07467, eq. 4); keeps `x` and one number a token.

    With ``n = x / rms``: ``dx = (g w - n mean(g w n)) / rms``, ``dw = sum_T g n``.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        x32 = x.float()
        scale = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, weight_D, scale)
        return (x32 * scale).to(x.dtype).mul_(weight_D)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_D, scale = ctx.saved_tensors
        n = x.float() * scale
        grad_weight = (grad * n).reshape(-1, n.shape[-1]).sum(0).to(weight_D.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None
        g = (grad * weight_D).float()
        inner = (g * n).mean(-1, keepdim=True)
        return g.sub_(n.mul_(inner)).mul_(scale).to(x.dtype), grad_weight, None


class _SwiGlu(torch.autograd.Function):
    """``silu(gate) * up`` (Shazeer, arXiv 2002.05202, eq. 6); keeps gate and up, not their product's factors."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), functional.silu(gate).mul_(grad)


class RmsNorm(nn.Module):
    """Stands for one of `NORMS`; the weight is the very same parameter."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = cast(nn.Parameter, norm.weight)
        self.epsilon = float(cast(float, norm.variance_epsilon))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, _RmsNorm.apply(x, self.weight, self.epsilon))  # type: ignore[no-untyped-call]

    def weight_gradient(self, grad_TD: Tensor, x_TD: Tensor, scale_T: Tensor) -> Tensor:
        """The weight's gradient, for who computes the norm by other means: `scale_T` is ``1 / rms`` of each row."""
        return (grad_TD.float() * x_TD.float() * scale_T[:, None]).sum(0).to(self.weight.dtype)


class GatedMlp(nn.Module):
    """Stands for one of `MLPS`; the linears keep their names, so slots and files find them."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.gate_proj = cast(nn.Module, mlp.gate_proj)
        self.up_proj = cast(nn.Module, mlp.up_proj)
        self.down_proj = cast(nn.Module, mlp.down_proj)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(_SwiGlu.apply(self.gate_proj(x), self.up_proj(x))))  # type: ignore[no-untyped-call]


def make_lean(network: nn.Module) -> int:
    """Put the lean modules in place wherever transformers' own are known to compute the same; returns how many were replaced."""
    found = [(name, module) for name, module in network.named_modules() if type(module).__name__ in NORMS | MLPS]
    replaced = 0
    for name, module in found:
        lean = _lean(module)
        if lean is not None:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, lean)
            replaced += 1
    return replaced


def _lean(module: nn.Module) -> nn.Module | None:
    if type(module).__name__ in NORMS:
        return RmsNorm(module)
    activation = type(getattr(module, "act_fn", None)).__name__
    return GatedMlp(module) if activation in ("SiLUActivation", "SiLU") else None
