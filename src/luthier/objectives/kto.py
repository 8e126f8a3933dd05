"""Kahneman-Tversky optimisation: single answers, each judged good or bad; no pairs (Ethayarajh et al., arXiv 2402.01306).

    r = log p(y | x) - log p_base(y | x)                                                                eq. 7 there
    z = max(0, mean of the same over answers of other rows put behind x)        no gradient; an estimate of KL(p || p_base)
    good   desirable   (1 - sigmoid(beta (r - z)))                                                      eq. 8
    bad    undesirable (1 - sigmoid(beta (z - r)))

The answer put behind x is that of the next row of the data, always the same one: its reference is found once. The mean is taken over
the whole step before any gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from luthier.core.sequence import Per, Row, Rows
from luthier.core.spec import Strict
from luthier.data.render import Renderer
from luthier.models.predictor import Meaning
from luthier.objectives._answers import Answers
from luthier.objectives._forest import Forest
from luthier.objectives._pairs import SIDES

ELSEWHERE = "elsewhere"
"""The part of a row that is another row's answer: read, never learned."""


class Options(Strict):
    """Settings of KTO."""

    beta: float = Field(0.1, gt=0, le=10)
    """How closely the tuned model stays to its base."""
    desirable: float = Field(1.0, gt=0, le=100)
    """How much a good answer counts; with few of them, more: the ratio of both sums is best between 1 and 4/3."""
    undesirable: float = Field(1.0, gt=0, le=100)
    """How much a bad answer counts."""


class Objective:
    """KTO over judged answers; a step's loss is the mean over its rows."""

    learn: str | None = None
    pairs = True
    reads = frozenset({"judged"})
    needs: frozenset[str] = frozenset({"next-token"})
    supports: frozenset[str] = frozenset()
    beside: frozenset[str] = frozenset({"reference"})
    meaning: Meaning | None = None
    per: Per = "row"
    rate = 0.1
    aside = ELSEWHERE

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def lay(self, rows: Rows, renderer: Renderer, answers: Answers) -> Rows:
        """Each row with the next one's answer behind its prompt, too."""
        return _Crossed(rows)

    def survey_shape(self, rows: int, width: int) -> tuple[int, ...]:
        """Two numbers: sum and count."""
        return (2,)

    def survey(self, forest: Forest) -> Tensor:
        """Sum of the rewards of answers that are not the prompt's own, and how many they are."""
        rewards_P = forest.total(forest.weights_N * (forest.logprobs() - forest.beside("reference")), ELSEWHERE)
        return torch.stack([rewards_P.sum(), torch.tensor(float(len(rewards_P)), device=rewards_P.device)])

    def loss(self, forest: Forest) -> Tensor:
        """Sum over the rows of a forest."""
        total, count = forest.surveyed
        z = (total / count.clamp(min=1)).clamp(min=0)
        reward_N = forest.weights_N * (forest.logprobs() - forest.beside("reference"))
        lost = torch.zeros((), device=reward_N.device)
        for side, weight, sign in zip(SIDES, (self.options.desirable, self.options.undesirable), (1.0, -1.0), strict=True):
            there_P = forest.total(torch.ones_like(reward_N), side) > 0
            lost_P = 1 - torch.sigmoid(sign * self.options.beta * (forest.total(reward_N, side) - z))
            lost = lost + weight * lost_P.where(there_P, torch.zeros_like(lost_P)).sum()
        return lost


class _Crossed:
    """Rows with the answer of the next row behind their own prompt (implements `core.sequence.Rows`)."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Row:
        row, other = self.rows[index], self.rows[(index + 1) % len(self.rows)]
        mine, theirs = row.sequences[-1], other.sequences[-1]
        prompt, answer = int(np.flatnonzero(mine.weights)[0]), int(np.flatnonzero(theirs.weights)[0])
        room = max(len(mine.tokens), len(theirs.tokens)) - prompt  # no path becomes longer than the longer of the two was
        tokens = np.concatenate([mine.tokens[:prompt], theirs.tokens[answer : answer + room]])
        weights = np.concatenate([np.zeros(prompt, np.float32), theirs.weights[answer : answer + room]])
        return Row(row.source, [*row.sequences, replace(mine, tokens=tokens, weights=weights, part=ELSEWHERE)])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))
