"""Multiple choice: which of several continuations does the model find likeliest? The prompt is read once for all of them.

Few-shot prompts need nothing more: questions that begin with the same examples share them in the tree, as the choices share the question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from luthier.core.errors import DataError
from luthier.core.sequence import answered
from luthier.engine.budget import TOKENS_PER_PACK
from luthier.engine.score import score
from luthier.models.model import Model

MOST_TOKENS = 8192
"""Laid out at once however long the prompts are: bounds memory; without gradients a 135 M model needs about 200 MB for them."""

By = Literal["sum", "mean"]
"""How a choice is weighed: ``sum`` of its tokens' log-probabilities (the probability of the text), or their ``mean``, which does not
punish long choices."""


@dataclass(frozen=True)
class Question:
    """A prompt and its possible continuations, as token ids."""

    prompt: list[int]
    choices: list[list[int]]


@dataclass(frozen=True)
class Choice:
    """The likeliest continuation.

    Attributes:
        index: its number, from 0. scores: of all choices, in nats (per token with ``mean``); higher is likelier.
    """

    index: int
    scores: list[float]


def choose(model: Model, prompt: list[int], choices: list[list[int]], *, by: By = "sum") -> Choice:
    """The likeliest of `choices` after `prompt`.

    Raises:
        DataError: there is no choice, one is empty, or one is longer than the model reads.
    """
    return choose_all(model, [Question(prompt, choices)], by=by)[0]


def choose_all(
    model: Model, questions: list[Question], *, by: By = "sum", on_progress: Callable[[int, int], None] | None = None
) -> list[Choice]:
    """`choose` for many questions at once."""
    for number, question in enumerate(questions, 1):
        _check(model, question, number)
    sequences = [answered(question.prompt, choice) for question in questions for choice in question.choices]
    longest = max((len(question.prompt) for question in questions), default=0)
    budget = max(TOKENS_PER_PACK, min(8 * longest, MOST_TOKENS))  # what prompts begin with is read again in each pack: an eighth of it
    totals = iter(score(model, sequences, budget=budget, on_progress=on_progress))
    return [_likeliest([next(totals).total / (len(c) if by == "mean" else 1) for c in question.choices]) for question in questions]


def _likeliest(scores: list[float]) -> Choice:
    return Choice(int(np.argmax(scores)), scores)


def _check(model: Model, question: Question, number: int) -> None:
    if not question.prompt or not question.choices or not all(question.choices):
        raise DataError(f"Question {number} has an empty prompt or choice.", remedy="Give each at least one token.", code="empty_choice")
    longest = len(question.prompt) + max(map(len, question.choices))
    if longest > model.context:
        what = f"Question {number} has {longest:,} tokens, but {model.name} reads {model.context:,}."
        raise DataError(what, remedy="Show fewer examples before the question.", code="prompt_too_long")
