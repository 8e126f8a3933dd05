"""Held-out answers of base and tuned, graded as the run was taught: the grade is what the verdict is about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.core.example import Source
from luthier.core.files import write_json
from luthier.evaluation.evaluate import Evaluation, evaluate
from luthier.evaluation.graders import Grade
from luthier.evaluation.items import write_items
from luthier.evaluation.verdict import verdict

NAME = "grade"

Fields = Callable[[Source], dict[str, Any]]
"""What a grader may look at of a row."""


def judged(grade: Grade, fields: Fields) -> Callable[..., Evaluation]:
    """`evaluation.evaluate.evaluate`, with grades. An answer that did not end gets none, as while learning."""

    def judge(*given: Any, folder: Path | None = None, **more: Any) -> Evaluation:
        found = evaluate(*given, folder=folder, **more)
        if not found.items:
            return found
        for item in found.items:
            seen = fields(Source(item.file, item.row))
            for answer in (item.base, item.tuned):
                answer.scores[NAME] = grade(seen, answer.text) if answer.stopped else 0.0
        base, tuned = ([getattr(item, side).scores[NAME] for item in found.items] for side in ("base", "tuned"))
        measure = verdict(base, tuned, metric="grade", unit="points of grade", scale=100.0, resamples=more["spec"].resamples)
        found.measures = {NAME: measure, **found.measures}
        if more["spec"].metric in ("auto", NAME):
            found.verdict, found.metric, found.why = measure, NAME, "answers were learned by their grades"
        if folder is not None:
            write_items(found.items, folder / "evaluation" / "items.jsonl")
            write_json(folder / "evaluation" / "summary.json", found.to_json())
        return found

    return judge
