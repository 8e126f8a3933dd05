"""Answers for reinforcement: drawn from the model as it is at each step, graded, and handed to the loop as rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from luthier.core.errors import SpecError
from luthier.core.sequence import Row, Rows
from luthier.core.spec import Spec
from luthier.data.said import Items
from luthier.engine.beside import observed
from luthier.evaluation.graders import grader
from luthier.inference.generate import generate
from luthier.jobs import heads, teachers
from luthier.models.model import Model
from luthier.objectives.grpo import REFERENCE, advantages, prompt_of, sampled

LOOKED_AT = 64
"""Held-out prompts answered at a look, evenly spread: enough to see the grade rise."""


class Rollouts:
    """Takes the place of a session's rows: same prompts, fresh answers.

    Args:
        model: with `method` attached. table: rows from which prompts are taken, as `Session.rows` counts them.
        valid: held-out rows for `look`.
    """

    def __init__(self, spec: Spec, model: Model, method: Any, table: Rows, valid: Rows) -> None:
        self.model, self.method, self.table, self.valid = model, method, table, valid
        self.options = heads.objective(spec).options
        self.grade, self.items, self.seed, self.spec = grader(self.options.grader), Items(spec.data.format), spec.train.seed, spec

    def rows(self, step: int, chosen: list[int]) -> list[Row]:
        """The rows of a step, as many answers to each prompt as the objective asks for. A function of weights, seed and step."""
        o, asked = self.options, [self.table[i] for i in chosen]
        prompts = [prompt_of(row) for row in asked]
        repeated = [prompt for prompt in prompts for _ in range(o.samples)]
        seed = hash((self.seed, step)) & (2**31 - 1)
        said = iter(self._written(repeated, temperature=o.temperature, seed=seed))
        made = []
        for row, prompt in zip(asked, prompts, strict=True):
            answers = [next(said) for _ in range(o.samples)]
            grades = [self._graded(row, tokens, stopped) for tokens, stopped in answers]
            paths = [sampled(prompt, tokens, advantage=a) for (tokens, _), a in zip(answers, advantages(grades), strict=True)]
            made.append(Row(row.source, paths))
        return self._with_reference(made) if o.beta else made

    def look(self) -> float:
        """One minus the mean grade of greedy answers to held-out prompts."""
        step = max(1, len(self.valid) // LOOKED_AT)
        asked = [self.valid[i] for i in range(0, len(self.valid), step)]
        said = self._written([prompt_of(row) for row in asked], temperature=0.0, seed=0)
        return 1 - float(np.mean([self._graded(row, tokens, stopped) for row, (tokens, stopped) in zip(asked, said, strict=True)]))

    def _written(self, prompts: list[list[int]], *, temperature: float, seed: int) -> list[tuple[list[int], bool]]:
        self.model.network.eval()
        stop = self.model.renderer.end_tokens
        found = generate(self.model, prompts, max_tokens=self.options.max_tokens, temperature=temperature, seed=seed, stop=stop)
        return [(one.tokens, one.stopped) for one in found]

    def _graded(self, row: Row, tokens: list[int], stopped: bool) -> float:
        ends = self.model.renderer.end_tokens
        text = self.model.renderer.decode([token for token in tokens if token not in ends])
        return self.grade(self.items.of(row.source), text) if stopped else 0.0

    def _with_reference(self, rows: list[Row]) -> list[Row]:
        with teachers.as_base(self.model, self.method) as base:
            known = iter(np.split(*_cut(observed(base, rows, range(len(rows)))["reference"], rows)))
        for row in rows:
            for sequence in row.sequences:
                sequence.beside[REFERENCE] = next(known)
        return rows


def rolled(spec: Spec, model: Model, method: Any, table: Rows, valid: Rows) -> Rollouts | None:
    """The rollouts of a run whose objective learns from grades; None for every other.

    Raises:
        SpecError: several processes are to share the steps.
    """
    if getattr(heads.objective(spec), "judged", "") != "grade":
        return None
    if spec.train.processes not in ("auto", 1):
        what = f"objective {spec.objective.name} answers its own prompts, which {spec.train.processes} processes cannot share yet."
        raise SpecError(what, remedy="Set train.processes=1.", code="bad_value")
    return Rollouts(spec, model, method, table, valid)


def _cut(values: Any, rows: list[Row]) -> tuple[Any, Any]:
    """Values of all learned tokens in one line, and where each path's end."""
    return values, np.cumsum([np.count_nonzero(s.weights) for row in rows for s in row.sequences])[:-1]
