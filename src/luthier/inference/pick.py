"""Picking the next token of each row: the likeliest, or one drawn at a temperature from the likeliest `top_p` share."""

from __future__ import annotations

import torch
from torch import Tensor


class Picker:
    """Draws next tokens. Each row has random numbers of its own, so that how rows are batched does not change what is drawn.

    Args:
        rows: numbers of the rows in the caller's list; with `seed` they decide the random numbers.
        temperature: 0 always takes the likeliest token; 1 draws from the model's own distribution.
        top_p: draw only from the smallest set of tokens that holds this share of probability (Holtzman et al. 2020, arXiv 1904.09751).
        never: tokens that are not picked, however likely.
    """

    def __init__(self, rows: list[int], *, temperature: float, top_p: float, seed: int, never: tuple[int, ...] = ()) -> None:
        self.temperature, self.top_p, self.never = temperature, top_p, list(never)
        self.sources = [torch.Generator().manual_seed(_mixed(seed, row)) for row in rows] if temperature > 0 else []

    def pick(self, logits_BV: Tensor) -> tuple[Tensor, Tensor]:
        """Next token of each row, and its log-probability under the model itself (temperature 1, nothing cut off).

        Args:
            logits_BV: float32 scores.

        Returns:
            int64 ``[B]`` and float32 ``[B]``.
        """
        open_BV = logits_BV.index_fill(1, torch.tensor(self.never, device=logits_BV.device), -torch.inf) if self.never else logits_BV
        tokens_B = self._draw(open_BV) if self.temperature > 0 else open_BV.argmax(-1)
        logprobs_B = logits_BV.gather(1, tokens_B[:, None]).squeeze(1) - logits_BV.logsumexp(-1)
        return tokens_B, logprobs_B

    def keep(self, rows: list[int]) -> None:
        """Forget all rows but these."""
        self.sources = [self.sources[row] for row in rows] if self.sources else []

    def _draw(self, logits_BV: Tensor) -> Tensor:
        p_BV, tokens_BV = torch.softmax(logits_BV / self.temperature, dim=-1).sort(descending=True, dim=-1, stable=True)
        total_BV = p_BV.cumsum(-1)
        inside_BV = total_BV - p_BV < self.top_p  # the first token is always inside
        mass_B = (p_BV * inside_BV).sum(-1)
        draws_B = torch.stack([torch.rand((), generator=source) for source in self.sources]).to(p_BV.device)
        place_B = (total_BV <= (draws_B * mass_B)[:, None]).sum(-1).clamp(max=inside_BV.sum(-1) - 1)
        return tokens_BV.gather(1, place_B[:, None]).squeeze(1)


def _mixed(seed: int, row: int) -> int:
    """One seed from two, so that (0, 1) and (1, 0) differ; an odd multiplier (Knuth, vol. 2, 3.3.4) spreads neighbours."""
    return (seed * 6364136223846793005 + row * 1442695040888963407 + 1) % (1 << 63)
