"""Distillation: a small model learns what a larger one thinks (Hinton, Vinyals and Dean, arXiv 1503.02531).

    loss = (1 - share) x surprise at the rows' own tokens + share x t^2 KL(teacher_t || model_t)              section 2 there

both distributions softened by the temperature t; the square keeps gradients of one size. The teacher's likeliest tokens of every place are
found once and kept (``_teacher.py``). ``reverse`` swaps the two (Gu et al., arXiv 2306.08543, eq. 1). With ``answers: teacher`` the
teacher also writes the answers that are learned (Kim and Rush, arXiv 1606.07947, section 3.2).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from luthier.core.sequence import Per
from luthier.core.spec import Strict
from luthier.models.predictor import Meaning
from luthier.objectives._forest import Forest
from luthier.objectives._teacher import TOP, divergence


class Options(Strict):
    """Settings of distillation."""

    teacher: str = ""
    """The model to learn from: a name of the catalog, a folder, or a run; with the same tokenizer, unless it only writes answers."""
    answers: Literal["data", "teacher"] = "data"
    """Whose answers are learned: those of the rows, or what the teacher writes to their questions."""
    share: float = Field(0.5, ge=0, le=1)
    """How much the teacher's distribution counts beside the tokens themselves; 0 learns the text alone, 1 the distribution alone."""
    temperature: float = Field(1.0, gt=0, le=20)
    """Above 1, what the teacher thinks unlikely counts for more."""
    direction: Literal["forward", "reverse"] = "forward"
    """Cover everything the teacher says, or avoid everything it does not: the second for students much smaller than the teacher."""


class Objective:
    """The teacher's distribution and the rows' tokens on the learned list."""

    learn: str | None = None
    pairs = False
    needs: frozenset[str] = frozenset({"next-token"})
    supports: frozenset[str] = frozenset()
    meaning: Meaning | None = None
    per: Per = "weight"
    rate = 1.0
    places = ("teacher",)
    top = TOP

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        self.teacher, self.temperature, self.answers = self.options.teacher, self.options.temperature, self.options.answers

    @property
    def beside(self) -> frozenset[str]:
        """The teacher's distribution, unless it counts nothing."""
        return frozenset({"teacher"} if self.options.share else ())

    def loss(self, forest: Forest) -> Tensor:
        """Both parts, summed, in nats."""
        o = self.options
        if not o.share:
            return forest.surprise()
        far_N = divergence(forest, temperature=o.temperature, reverse=o.direction == "reverse")
        softened = o.share * o.temperature**2 * (forest.weights_N * far_N).sum()
        return softened if o.share == 1 else (1 - o.share) * forest.surprise() + softened
