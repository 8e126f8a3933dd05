"""What another model thinks of every next token, beside the rows: its likeliest tokens, and all others as one.

K likeliest tokens of the teacher with probabilities p_1 .. p_K, and ``p_rest = 1 - sum p``; q the same of the model that learns. The
distance is that of these K + 1 outcomes: never more than that of the whole vocabulary, and equal to it where K is all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from luthier.objectives._forest import Forest

TOP = 16
"""Likeliest tokens that are kept of each place: 128 bytes. On text they hold nearly all of the probability; the rest is one outcome."""

IDS, LOGPROBS = "top_ids", "top_logprobs"

LEAST = 1e-6
"""Smallest probability that a rest is taken to have: what is left beside fp32 sums that should be one."""


def divergence(forest: Forest, *, temperature: float = 1.0, reverse: bool = False) -> Tensor:
    """Kullback-Leibler distance in nats at every learned pair, ``[N]``, differentiable in the model that learns.

    Args:
        reverse: ``sum q log(q / p)``, which avoids what the teacher never says, in place of ``sum p log(p / q)``, which covers all it says.
    """
    p_NK = forest.beside(LOGPROBS)
    q_NK = forest.choices(forest.beside(IDS).long(), temperature=temperature)
    p, q = torch.cat([p_NK, _rest(p_NK)], -1), torch.cat([q_NK, _rest(q_NK)], -1)
    return (q.exp() * (q - p)).sum(-1) if reverse else (p.exp() * (p - q)).sum(-1)


def _rest(logprobs_NK: Tensor) -> Tensor:
    """Log-probability of everything else, ``[N, 1]``."""
    return (1 - logprobs_NK.exp().sum(-1, keepdim=True)).clamp(min=LEAST).log()
