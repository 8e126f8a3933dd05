"""From states to log-probabilities, in chunks: no ``[tokens, vocabulary]`` tensor ever exists.

N learned pairs, D width of a state, V vocabulary, C pairs of one chunk.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 256
"""Pairs per chunk: its logits (256 x 50,304 in bf16: 26 MB) about fit the cache; on two cores 256 ran at 722 GFLOP/s, 1,024 at 465."""

HEAD_ROWS = 8192
"""Rows of the head whose gradient is in bf16 and fp32 at once: of all of them it was 165 MB more for 50,304 x 576."""

CHUNK_ON_ACCELERATOR = 2048
"""Pairs per chunk there: at 256, reading the head (152 k x 1,536 in bf16: 0.14 ms on an H100) takes as long as multiplying by
it. The logits of 2,048 are 0.6 GB. Reckoned, not measured."""


def _chunk(where: torch.device) -> int:
    return CHUNK if where.type == "cpu" else CHUNK_ON_ACCELERATOR


class _LogProbs(torch.autograd.Function):
    """Log-probability of each target.

    A state's gradient is the same vector whatever comes behind, only its length differs. Where the head stands still, that vector takes
    the place of the state in the forward pass, and the head is multiplied twice, not three times; else the softmax is computed again.
    """

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float | None) -> Tensor:
        size, found = _chunk(states_ND.device), []
        early = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
        gradient = _Gradient(states_ND, weight_VD, needs_weight=False) if early else None
        one_N = torch.ones(len(targets_N), device=states_ND.device)
        for start in range(0, len(targets_N), size):
            chunk = slice(start, start + size)
            p_CV, logprobs_C, slope_CV = _target_logprobs(states_ND[chunk], weight_VD, targets_N[chunk], softcap, sloped=early)
            found.append(logprobs_C)
            if gradient is not None:
                gradient.add(chunk, p_CV, targets_N[chunk], one_N[chunk], slope_CV)
        ctx.early = gradient.states_ND if gradient is not None else None
        ctx.softcap = softcap
        if not early:
            ctx.save_for_backward(states_ND, weight_VD, targets_N)
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.early is not None:
            return (ctx.early * -grad_N.unsqueeze(1)).to(ctx.early.dtype), None, None, None
        states_ND, weight_VD, targets_N = ctx.saved_tensors
        gradient, size = _Gradient(states_ND, weight_VD, needs_weight=ctx.needs_input_grad[1]), _chunk(states_ND.device)
        for start in range(0, len(targets_N), size):
            chunk = slice(start, start + size)
            p_CV, _, slope_CV = _target_logprobs(states_ND[chunk], weight_VD, targets_N[chunk], ctx.softcap, sloped=True)
            gradient.add(chunk, p_CV, targets_N[chunk], -grad_N[chunk], slope_CV)
        return gradient.states_ND, gradient.weight(), None, None


class _WeightedLoss(torch.autograd.Function):
    """``-sum(weights * logprobs)`` and its gradient in one pass: the head is multiplied twice, not three times."""

    @staticmethod
    def forward(
        ctx: Any, states_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        gradient = _Gradient(states_ND, weight_VD, needs_weight=ctx.needs_input_grad[1]) if any(ctx.needs_input_grad[:2]) else None
        found, size = [], _chunk(states_ND.device)
        for start in range(0, len(targets_N), size):
            chunk = slice(start, start + size)
            sloped = gradient is not None
            p_CV, logprobs_C, slope_CV = _target_logprobs(states_ND[chunk], weight_VD, targets_N[chunk], softcap, sloped=sloped)
            found.append(logprobs_C)
            if gradient is not None:
                gradient.add(chunk, p_CV, targets_N[chunk], weights_N[chunk], slope_CV)
        if gradient is not None:
            ctx.gradient = gradient
        logprobs_N = torch.cat(found)
        ctx.mark_non_differentiable(logprobs_N)
        return -(weights_N * logprobs_N).sum(dtype=torch.float64).float(), logprobs_N

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradient = ctx.gradient
        weight_VD = gradient.weight()
        return _scaled(gradient.states_ND, grad), None if weight_VD is None else _scaled(weight_VD, grad), None, None, None


class _Choices(torch.autograd.Function):
    """Log-probabilities of K given tokens a state, at a temperature; the softmax is computed again in backward."""

    @staticmethod
    def forward(ctx: Any, states_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(states_ND, weight_VD, ids_NK)
        ctx.temperature, found = temperature, []
        for start in range(0, len(ids_NK), _chunk(states_ND.device)):
            chunk = slice(start, start + _chunk(states_ND.device))
            logits_CV = F.linear(states_ND[chunk], weight_VD).float() / temperature
            found.append(logits_CV.gather(1, ids_NK[chunk]) - logits_CV.logsumexp(-1, keepdim=True))
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, grad_NK: Tensor) -> tuple[Tensor | None, ...]:
        states_ND, weight_VD, ids_NK = ctx.saved_tensors
        grad_ND = torch.empty_like(states_ND)
        grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(ids_NK), _chunk(states_ND.device)):
            chunk = slice(start, start + _chunk(states_ND.device))
            p_CV = (F.linear(states_ND[chunk], weight_VD).float() / ctx.temperature).softmax(-1)
            slope_CV = p_CV.mul_(-grad_NK[chunk].sum(-1, keepdim=True)).scatter_add_(1, ids_NK[chunk], grad_NK[chunk])
            slope_CV = slope_CV.div_(ctx.temperature).to(weight_VD.dtype)
            grad_ND[chunk] = slope_CV @ weight_VD
            if grad_VD is not None:
                grad_VD += (slope_CV.t() @ states_ND[chunk]).float()
        return grad_ND, None if grad_VD is None else grad_VD.to(weight_VD.dtype), None, None


class _Gradient:
    """Collects the gradient of ``sum(w * cross_entropy)`` chunk by chunk."""

    def __init__(self, states_ND: Tensor, weight_VD: Tensor, *, needs_weight: bool) -> None:
        self.source_ND, self.head_VD = states_ND, weight_VD
        self.states_ND = torch.empty_like(states_ND)
        self.weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_weight else None

    def add(self, chunk: slice, p_CV: Tensor, targets_C: Tensor, weights_C: Tensor, slope_CV: Tensor | None) -> None:
        """`p_CV` is the softmax; it is turned into the gradient of the logits in place, before a soft cap of this slope if there is one."""
        p_CV[torch.arange(len(targets_C), device=p_CV.device), targets_C] -= 1
        if slope_CV is not None:
            p_CV *= slope_CV
        weights_C1 = weights_C.unsqueeze(1)
        self.states_ND[chunk] = (p_CV @ self.head_VD) * weights_C1.to(p_CV.dtype)
        if self.weight_VD is not None:
            weighted_CD = self.source_ND[chunk] * weights_C1.to(p_CV.dtype)
            for sum_RD, p_CR in zip(self.weight_VD.split(HEAD_ROWS), p_CV.split(HEAD_ROWS, dim=1), strict=True):
                sum_RD += (p_CR.t() @ weighted_CD).float()

    def weight(self) -> Tensor | None:
        return None if self.weight_VD is None else self.weight_VD.to(self.head_VD.dtype)


def _scaled(x: Tensor, scale: Tensor) -> Tensor:
    """``x * scale`` in fp32, rounded once; an accelerator's scale is not fetched (that would wait for it), nor rounded to bf16 first."""
    return x * scale.item() if scale.device.type == "cpu" else (x.float() * scale).to(x.dtype)


def _logits(states_CD: Tensor, weight_VD: Tensor, softcap: float | None, *, sloped: bool) -> tuple[Tensor, Tensor | None]:
    """Token scores ``[C, V]``, and the slope of their soft cap where there is one and it is asked for: ``1 - tanh^2``."""
    logits_CV = F.linear(states_CD, weight_VD)
    if softcap is None:
        return logits_CV, None
    tanh_CV = logits_CV.div_(softcap).tanh_()
    return tanh_CV * softcap, tanh_CV.square_().neg_().add_(1) if sloped else None


def _target_logprobs(
    states_CD: Tensor, weight_VD: Tensor, targets_C: Tensor, softcap: float | None, *, sloped: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Softmax ``[C, V]`` in the dtype of the logits, float32 log-probabilities of the targets ``[C]``, and the slope of `_logits`.

    The softmax kernel accumulates in fp32 and rounds at the end, so the log of its entry is as exact as the logit itself. On a CPU it
    takes the place of the logits: one of the largest tensors of a step less. A target whose probability underflows is computed again.
    """
    logits_CV, slope_CV = _logits(states_CD, weight_VD, softcap, sloped=sloped)
    picked_C1 = targets_C.unsqueeze(1)
    if logits_CV.device.type != "cpu":
        p_CV = torch.softmax(logits_CV, dim=-1)
        return p_CV, _rescued(logits_CV, p_CV, picked_C1, p_CV.gather(1, picked_C1).squeeze(1).float()), slope_CV
    p_CV = torch.softmax(logits_CV, dim=-1, out=logits_CV)
    p_C = p_CV.gather(1, picked_C1).squeeze(1).float()
    logprobs_C = p_C.log()
    lost = (p_C < 1e-30).nonzero().squeeze(1)
    if len(lost):
        rows = _logits(states_CD[lost], weight_VD, softcap, sloped=False)[0].float()
        logprobs_C[lost] = rows.gather(1, picked_C1[lost]).squeeze(1) - rows.logsumexp(-1)
    return p_CV, logprobs_C, slope_CV


def _rescued(logits_CV: Tensor, p_CV: Tensor, picked_C1: Tensor, p_C: Tensor) -> Tensor:
    """The same without looking which are lost, for which a host would wait: a lost one is its distance to the likeliest token."""
    top_C1, place_C1 = logits_CV.max(-1, keepdim=True)
    distance_C1 = logits_CV.gather(1, picked_C1).float() - top_C1.float()
    return torch.where(p_C < 1e-30, (distance_C1 + p_CV.gather(1, place_C1).float().log()).squeeze(1), p_C.log())


def logprobs(states_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, softcap: float | None = None) -> Tensor:
    """Float32 log-probability of each target under its state, differentiable in states and head.

    Args:
        states_ND: states after the final norm. weight_VD: the head. targets_N: int64 token ids.
        softcap: bound on the scores (`Model.softcap`).
    """
    if not len(targets_N):
        return states_ND.sum(-1).float()
    result: Tensor = _LogProbs.apply(states_ND, weight_VD, targets_N, softcap)  # type: ignore[no-untyped-call]
    return result


def weighted_loss(
    states_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, weights_N: Tensor, *, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """``-sum(weights * logprobs)`` in nats (a float32 scalar with gradient) and the log-probabilities ``[N]`` without.

    Equal to ``-(weights_N * logprobs(...)).sum()``, one head product cheaper. For objectives that are linear in the log-probabilities.
    """
    if not len(targets_N):
        return states_ND.sum().float() * 0, states_ND.new_zeros(0, dtype=torch.float32)
    result: tuple[Tensor, Tensor] = _WeightedLoss.apply(states_ND, weight_VD, targets_N, weights_N, softcap)  # type: ignore[no-untyped-call]
    return result


def choices(states_ND: Tensor, weight_VD: Tensor, ids_NK: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Float32 log-probabilities ``[N, K]`` of given tokens under ``softmax(scores / temperature)``, differentiable in states and head."""
    result: Tensor = _Choices.apply(states_ND, weight_VD, ids_NK, temperature)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def top(states_ND: Tensor, weight_VD: Tensor, count: int, *, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The `count` likeliest tokens of each state, likeliest first: ids ``[N, K]`` and log-probabilities ``[N, K]``, float32."""
    ids, logprobs = [], []
    for states_CD in states_ND.split(_chunk(states_ND.device)):
        found = (F.linear(states_CD, weight_VD).float() / temperature).log_softmax(-1).topk(count)
        ids.append(found.indices)
        logprobs.append(found.values)
    return torch.cat(ids), torch.cat(logprobs)
