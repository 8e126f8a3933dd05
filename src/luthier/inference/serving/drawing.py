"""The next token of each row: every row with its own temperature, bias, penalties, grammar and random numbers.

B rows, V vocabulary, C rows that ask for something.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from luthier.core.errors import LuthierError, ResultError
from luthier.inference.serving.ask import Asked

GREEDY_BELOW = 1e-5
"""Temperatures below it mean the likeliest token: dividing scores by less gains nothing and loses precision."""

LIKELIEST = 1024
"""Tokens looked at for `top_p` before all of a vocabulary are sorted: they nearly always hold its share."""


class Grammar(Protocol):
    """What an answer must follow (``inference/constrain.py``)."""

    def allowed(self) -> Tensor:
        """Bool ``[V]``: which tokens may come next."""
        ...

    def take(self, token: int) -> bool:
        """A token came. Whether the answer is complete by it."""
        ...


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, its log-probability under the model itself and the likeliest others, where they were asked for."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Drawing:
    """How one answer is drawn.

    Args:
        seed: with `index` decides all random numbers: Python's Mersenne Twister, seeded by both as text.
    """

    def __init__(self, asked: Asked, index: int, *, seed: int, grammar: Grammar | None = None) -> None:
        self.temperature, self.top_p = asked.temperature, asked.top_p
        self.greedy = asked.temperature < GREEDY_BELOW
        self.alternatives = asked.logprobs
        self.presence, self.frequency = asked.presence_penalty, asked.frequency_penalty
        self.bias = asked.logit_bias
        self.grammar = grammar
        self.written: Counter[int] = Counter()
        self.random = random.Random(f"{seed}:{index}")

    @property
    def plain(self) -> bool:
        """Scores are drawn from as the model gives them."""
        return not (self.bias or self.presence or self.frequency or self.grammar)

    def adjust(self, scores_V: Tensor) -> None:
        """Bias, penalties (``- count * frequency - (count > 0) * presence``, as OpenAI writes it) and grammar, in place."""
        if self.bias:
            scores_V[torch.tensor(list(self.bias), device=scores_V.device)] += torch.tensor(list(self.bias.values())).to(scores_V)
        if self.written and (self.presence or self.frequency):
            counts = torch.tensor(list(self.written.values())).to(scores_V)
            tokens = torch.tensor(list(self.written), device=scores_V.device)
            scores_V[tokens] -= counts * self.frequency + self.presence
        if self.grammar is not None:
            scores_V.masked_fill_(~self.grammar.allowed().to(scores_V.device), float("-inf"))

    def take(self, token: int) -> bool:
        """A token came. Whether the answer is complete by it."""
        if self.presence or self.frequency:
            self.written[token] += 1
        return self.grammar is not None and self.grammar.take(token)


def draw(drawings: list[Drawing], scores_BV: Tensor) -> list[Drawn | LuthierError]:
    """The next token of each row; a row for which none can be drawn gets its error instead.

    Args:
        scores_BV: float32, changed in place.
    """
    asking = [i for i, drawing in enumerate(drawings) if drawing.alternatives is not None]
    own_CV = scores_BV[asking] if asking else scores_BV[:0]
    failed: dict[int, LuthierError] = {}
    for i, drawing in enumerate(drawings):
        if not drawing.plain:
            try:
                drawing.adjust(scores_BV[i])
            except Exception as error:
                failed[i] = _failed(error)
    top_B, tokens_B = scores_BV.max(-1)
    drawing_rows = [i for i, drawing in enumerate(drawings) if not drawing.greedy and i not in failed]
    if drawing_rows:
        tokens_B[drawing_rows] = _drawn([drawings[i] for i in drawing_rows], scores_BV[drawing_rows])
    finite, tokens = top_B.isfinite().tolist(), tokens_B.tolist()
    told = dict(zip(asking, _probabilities(own_CV, [drawings[i] for i in asking], [tokens[i] for i in asking]), strict=True))
    for i, ok in enumerate(finite):
        if not ok and i not in failed:
            failed[i] = _nothing()
    return [failed.get(i) or told.get(i) or Drawn(token) for i, token in enumerate(tokens)]


def _drawn(drawings: list[Drawing], scores_CV: Tensor) -> Tensor:
    """By inverting the cumulative distribution, in float64: one number a row decides, whoever else is in the batch."""
    temperature_C = torch.tensor([drawing.temperature for drawing in drawings], device=scores_CV.device)
    p_CV = torch.softmax(scores_CV / temperature_C[:, None], dim=-1)
    cutting = [i for i, drawing in enumerate(drawings) if drawing.top_p < 1]
    if cutting:
        shares_C = torch.tensor([drawings[i].top_p for i in cutting], device=p_CV.device)
        p_CV[cutting] = _nucleus(p_CV[cutting], shares_C)
    total_CV = p_CV.double().cumsum(-1)
    number_C = torch.tensor([drawing.random.random() for drawing in drawings], dtype=torch.float64, device=p_CV.device)
    tokens_C = (total_CV <= (number_C * total_CV[:, -1])[:, None]).sum(-1)
    return tokens_C.clamp(max=p_CV.shape[-1] - 1)


def _nucleus(p_CV: Tensor, share_C: Tensor) -> Tensor:
    """Only the smallest set of tokens that holds the share of probability (Holtzman et al. 2020, arXiv 1904.09751), ties included."""
    first_CL = p_CV.topk(min(LIKELIEST, p_CV.shape[-1])).values
    if bool((first_CL.sum(-1) < share_C).any()):
        first_CL = p_CV.sort(dim=-1, descending=True).values
    inside_CL = first_CL.cumsum(-1) - first_CL < share_C[:, None]  # the first is always inside
    least_C = first_CL.gather(1, inside_CL.sum(-1, keepdim=True) - 1)
    return p_CV.masked_fill(p_CV < least_C, 0.0)


def _probabilities(own_CV: Tensor, drawings: list[Drawing], tokens: list[int]) -> list[Drawn]:
    if not drawings:
        return []
    return measured(own_CV, [drawing.alternatives or 0 for drawing in drawings], tokens)


def measured(scores_CV: Tensor, alternatives: list[int], tokens: list[int]) -> list[Drawn]:
    """Tokens with their log-probabilities and the likeliest others, under the scores as they stand."""
    logprobs_CV = scores_CV - scores_CV.logsumexp(-1, keepdim=True)
    chosen = logprobs_CV.gather(1, torch.tensor(tokens, device=scores_CV.device)[:, None]).squeeze(1).tolist()
    most = max(alternatives)
    top = logprobs_CV.topk(most) if most else None
    numbers, values = (top.indices.tolist(), top.values.tolist()) if top is not None else ([[]] * len(tokens), [[]] * len(tokens))
    return [
        Drawn(token, logprob, tuple(zip(numbers[i][:count], values[i][:count], strict=True)))
        for i, (token, logprob, count) in enumerate(zip(tokens, chosen, alternatives, strict=True))
    ]


def _failed(error: Exception) -> LuthierError:
    if isinstance(error, LuthierError):
        return error
    what = f"No next token could be drawn: {type(error).__name__}: {error}."
    return ResultError(what, remedy="Ask again without logit_bias and response_format; please report it.", code="answer_failed")


def _nothing() -> ResultError:
    return ResultError(
        "No token is left to be drawn, or the model's scores are not numbers.",
        remedy="If the answer must follow a schema or logit_bias forbids tokens, these leave nothing; else load the model again.",
        code="answer_failed",
    )
