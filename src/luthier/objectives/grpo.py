"""Group-relative policy optimisation: answers that a grader likes better than their neighbours become likelier (Shao et al., arXiv
2402.03300).

The model answers each prompt `samples` times; with grades g of one prompt's answers

    A = (g - mean g) / (deviation of g + 1e-4)                                                    section 4.1.2 there
    loss = mean over tokens of  -A p / stop(p)  +  beta (p_base / p - log(p_base / p) - 1)        eq. 3 and 4

p is the probability of a token, ``stop`` takes no gradient: every batch of answers is used for one step, so nothing is clipped. The mean is
over all tokens of the step, so that long answers weigh by their length and no more (Yu et al., arXiv 2503.14476, eq. 12).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from luthier.core.sequence import Per, Pictured, Row, Rows, Sequence, answered
from luthier.core.spec import Strict
from luthier.data.render import Renderer
from luthier.models.predictor import Meaning
from luthier.objectives._answers import Answers
from luthier.objectives._forest import Forest

ADVANTAGE, REFERENCE = "advantage", "reference"


class Options(Strict):
    """Settings of reinforcement."""

    grader: dict[str, Any] = Field(default_factory=lambda: {"type": "string_check"})
    """Who grades: string_check, text_similarity, number, regex, json_schema, label or multi, with its settings."""
    samples: int = Field(8, ge=2, le=128)
    """Answers to each prompt; their mean grade is what each is measured against."""
    temperature: float = Field(1.0, gt=0, le=2)
    """At which answers are drawn; lower finds less that is new."""
    max_tokens: int = Field(256, ge=1, le=32768)
    """Longest answer; one that does not end by then gets no grade."""
    beta: float = Field(0.02, ge=0, le=10)
    """How closely the model stays to its base; 0 lets it go, and spares reading every answer with the base."""


class Objective:
    """Policy gradient over sampled answers; a step's loss is the mean over their tokens."""

    learn: str | None = "last_answer"
    pairs = False
    needs: frozenset[str] = frozenset({"next-token", "swap"})
    supports: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset()
    meaning: Meaning | None = None
    per: Per = "weight"
    rate = 0.1
    """Reinforcement recipes take 1e-6 with full tuning and 1e-5 to 5e-5 with LoRA. A guess within a factor of two."""
    judged = "grade"

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def lay(self, rows: Rows, renderer: Renderer, answers: Answers) -> Rows:
        """Each prompt with answers of the longest kind, as planning must expect them; a step puts real ones in their place."""
        return Expected(rows, self.options, renderer.vocab_size, picture=renderer.eyes.id if renderer.eyes else -1)

    def loss(self, forest: Forest) -> Tensor:
        """Sum over the tokens of a forest."""
        logprobs_N = forest.logprobs()
        loss_N = -forest.beside(ADVANTAGE) * (logprobs_N - logprobs_N.detach()).exp()
        if self.options.beta:
            far_N = forest.beside(REFERENCE) - logprobs_N
            loss_N = loss_N + self.options.beta * (far_N.exp() - far_N - 1)
        return (forest.weights_N * loss_N).sum()


def advantages(grades: list[float]) -> list[float]:
    """How much better each answer is than its neighbours; all 0 where they are alike."""
    found = np.asarray(grades, float)
    return ((found - found.mean()) / (found.std(ddof=1) + 1e-4)).tolist()  # type: ignore[no-any-return]


class Expected:
    """Rows with as many and as long answers as a step may bring, of no meaning (implements `core.sequence.Rows`).

    Args:
        picture: the token that stands for one, which no answer has; -1 where there is none.
    """

    def __init__(self, rows: Rows, options: Options, vocabulary: int, *, picture: int = -1) -> None:
        self.rows, self.options, self.vocabulary, self.picture = rows, options, vocabulary, picture

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Row:
        row = self.rows[index]
        prompt = prompt_of(row)
        return Row(row.source, [self._answered(prompt, number) for number in range(self.options.samples)])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def _answered(self, prompt: list[int], number: int) -> Sequence:
        answer = ((np.arange(self.options.max_tokens) + 1) * (number + 1)) % self.vocabulary
        answer[answer == self.picture] = 0
        return sampled(prompt, answer.tolist(), advantage=0.0)


def prompt_of(row: Row) -> list[int]:
    """What precedes the learned answer of a row from the table."""
    sequence = row.sequences[-1]
    return Pictured(sequence.tokens[: int(np.flatnonzero(sequence.weights)[0])].tolist(), sequence.media)


def sampled(prompt: list[int], answer: list[int], *, advantage: float) -> Sequence:
    """One answer to a prompt, every token of it learned; what the base thinks of it is laid beside later."""
    beside = {ADVANTAGE: np.full(len(answer), advantage, np.float32), REFERENCE: np.zeros(len(answer), np.float32)}
    return replace(answered(prompt, answer), beside=beside)
