"""The kernels in torch. What they do is the definition; shapes as in ``__init__.py``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from luthier.models.kernels import Bytes, Cut, Step, Tree


class Plain:
    """In torch. What it does is the definition."""

    name = "torch"

    def rms_norm(self, x_TD: Tensor, w_D: Tensor, epsilon: float, scale_T: Tensor) -> Tensor:
        x32 = x_TD.float()
        torch.rsqrt(x32.pow(2).mean(-1) + epsilon, out=scale_T)
        return (x32 * scale_T[:, None]).to(x_TD.dtype).mul_(w_D)

    def rms_norm_back(self, g_TD: Tensor, x_TD: Tensor, scale_T: Tensor, w_D: Tensor, through_TD: Tensor | None) -> Tensor:
        n = x_TD.float() * scale_T[:, None]
        g = g_TD.float() * w_D
        inner = (g * n).mean(-1, keepdim=True)
        dx = g.sub_(n.mul_(inner)).mul_(scale_T[:, None])
        return (dx if through_TD is None else dx.add_(through_TD)).to(x_TD.dtype)

    def swiglu(self, gate_up_T2F: Tensor) -> Tensor:
        gate, up = gate_up_T2F.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    def swiglu_back(self, d_TF: Tensor, gate_up_T2F: Tensor) -> Tensor:
        gate, up = gate_up_T2F.chunk(2, dim=-1)
        silu = functional.silu(gate)
        out = torch.empty_like(gate_up_T2F)
        dgate, dup = out.chunk(2, dim=-1)
        dgate.copy_(torch.ops.aten.silu_backward(d_TF * up, gate))
        torch.mul(silu, d_TF, out=dup)
        torch.mul(silu, up, out=d_TF)
        return out

    def split_heads(
        self, qkv: Tensor, cos_TW: Tensor, sin_TW: Tensor, cut: Cut, q: Tensor, k_KTW: Tensor, v_KTW: Tensor, scaling: float
    ) -> None:
        tokens, width = cos_TW.shape
        kv = k_KTW.shape[0]
        x = qkv.view(tokens, -1, width)
        heads = x.shape[1] - 2 * kv
        turned = _turned(x[:, : heads + kv], cos_TW[:, None], sin_TW[:, None])
        q.view(-1, width)[_places(cut, heads)] = (turned[:, :heads] * scaling).reshape(-1, width)
        k_KTW.copy_(turned[:, heads:].transpose(0, 1))
        v_KTW.copy_(x[:, heads + kv :].transpose(0, 1))

    def join_heads(self, dq: Tensor, dk_KTW: Tensor, dv_KTW: Tensor, cos_TW: Tensor, sin_TW: Tensor, cut: Cut, scaling: float) -> Tensor:
        tokens, width = cos_TW.shape
        heads = dq.numel() // (tokens * width)
        q = dq.view(-1, width)[_places(cut, heads)].view(tokens, heads, width) * scaling
        turned = torch.cat([q, dk_KTW.transpose(0, 1)], dim=1)
        back = _turned_back(turned, cos_TW[:, None], sin_TW[:, None])
        return torch.cat([back, dv_KTW.transpose(0, 1)], dim=1).view(tokens, -1)

    def from_pieces(self, pieces: Tensor, cut: Cut, out_TD: Tensor) -> None:
        width = pieces.shape[-1]
        heads = out_TD.shape[1] // width
        out_TD.view(-1, width).copy_(pieces.view(-1, width)[_places(cut, heads)])

    def to_pieces(self, g_TD: Tensor, out_TD: Tensor, cut: Cut, heads: int) -> tuple[Tensor, Tensor]:
        places = _places(cut, heads)
        tokens = g_TD.shape[0]
        pieces, delta = torch.empty_like(g_TD), g_TD.new_empty(tokens * heads, dtype=torch.float32)
        pieces.view(tokens * heads, -1)[places] = g_TD.view(tokens * heads, -1)
        delta[places] = (g_TD.float() * out_TD.float()).view(tokens * heads, -1).sum(-1)
        return pieces.view(tokens, heads, -1), delta

    def causal_softmax(self, scores_KMS: Tensor, logsum: Tensor, n: int) -> None:
        torch.softmax(_masked(scores_KMS, n), dim=-1, out=scores_KMS)

    def causal_softmax_back(self, scores_KMS: Tensor, dp_KMS: Tensor, logsum: Tensor, delta: Tensor, n: int) -> None:
        self.causal_softmax(scores_KMS, logsum, n)
        dp_KMS.sub_(delta.view(*dp_KMS.shape[:2], 1).to(dp_KMS.dtype)).mul_(scores_KMS)

    def attend(self, q: Tensor, k_KTW: Tensor, v_KTW: Tensor, tree: Tree, out: Tensor, logsum: Tensor) -> bool:
        return False

    def attend_back(
        self, g: Tensor, delta: Tensor, q: Tensor, k_KTW: Tensor, v_KTW: Tensor, logsum: Tensor, tree: Tree, grads: tuple[Tensor, ...]
    ) -> bool:
        return False

    def paged(
        self, q_BHW: Tensor, keys: Tensor, values: Tensor, places_BL: Tensor, count_B: Tensor, *, softcap: float = 0.0, window: int = 0
    ) -> Tensor:
        rows, heads, width = q_BHW.shape
        k_BKLW, v_BKLW = (x[places_BL].transpose(1, 2) for x in (keys, values))
        scores = q_BHW.view(rows, keys.shape[1], -1, width) @ k_BKLW.transpose(2, 3)
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        column = torch.arange(places_BL.shape[1], device=places_BL.device)
        hidden_BL = column >= count_B[:, None]
        if window:
            hidden_BL |= column < count_B[:, None] - window
        p = torch.softmax(scores.masked_fill_(hidden_BL[:, None, None], float("-inf")), dim=-1)
        return (p @ v_BKLW).reshape(rows, heads, width)

    def adamw8bit(self, weight_n: Tensor, lower_n: Tensor | None, gradient_n: Tensor, first: Bytes, second: Bytes, step: Step) -> bool:
        return False


def _masked(scores_KMS: Tensor, n: int) -> Tensor:
    kv, rows, seen = scores_KMS.shape
    hidden = torch.ones(n, n, dtype=torch.bool, device=scores_KMS.device).triu_(1)
    scores_KMS.view(kv, rows // n, n, seen)[..., seen - n :].masked_fill_(hidden, float("-inf"))
    return scores_KMS


def _places(cut: Cut, heads: int) -> Tensor:
    """Row, in a layout piece by piece ``[H, n, W]``, of every (token, head)."""
    offset_T = torch.arange(len(cut.first_T), device=cut.first_T.device) - cut.first_T
    return (
        (cut.first_T * heads + offset_T)[:, None] + torch.arange(heads, device=cut.first_T.device)[None, :] * cut.count_T[:, None]
    ).view(-1)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding (Su et al., arXiv 2104.09864, eq. 34), halves rotated against each other as Llama does."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-b, a], dim=-1) * sin


def _turned_back(g: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The gradient of `_turned`."""
    a, b = (g * sin).chunk(2, dim=-1)
    return g * cos + torch.cat([b, -a], dim=-1)
