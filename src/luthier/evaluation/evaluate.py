"""Base and tuned on the same held-out rows: how likely they find the expected answers, what they answer themselves, and the verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.example import Example
from luthier.core.files import write_json
from luthier.core.sequence import Rows
from luthier.core.spec import EvaluateSpec
from luthier.data.render import Renderer
from luthier.evaluation import choosing, pairs
from luthier.evaluation.items import Answer, Item, write_items
from luthier.evaluation.labels import Labels, detect
from luthier.evaluation.likelihood import Likelihood, likelihood
from luthier.evaluation.metrics import FOLDER, extras, metric
from luthier.evaluation.questions import Question, expected_answer, questions
from luthier.evaluation.sample import sample
from luthier.evaluation.verdict import Verdict, verdict
from luthier.inference.generate import Generation, generate
from luthier.inference.sides import SIDES, Method, Side, Sides
from luthier.models.model import Model

Progress = Callable[[int, int], None]


@dataclass
class Evaluation:
    """The comparison.

    Attributes:
        verdict: the one about `metric`, chosen for the reason `why`.
        measures: every number compared, by name. items: the rows answered by generation.
        tables: by side what metrics tell beside their scores (confusion table). notes: what a reader should know.
        rows: held-out rows; the loss is over all of them.
    """

    verdict: Verdict
    metric: str
    why: str
    measures: dict[str, Verdict]
    items: list[Item]
    labels: Labels
    tables: dict[Side, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rows: int = 0
    max_tokens: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything but the items, as plain fields."""
        return {
            "verdict": self.verdict.to_json(),
            "metric": self.metric,
            "why": self.why,
            "measures": {name: found.to_json() for name, found in self.measures.items()},
            "labels": {"where": self.labels.where, "values": list(self.labels.values), "reason": self.labels.reason},
            "tables": self.tables,
            "notes": self.notes,
            "rows": self.rows,
            "answered": len(self.items),
            "max_tokens": self.max_tokens,
            "seconds": round(self.seconds, 1),
        }


def evaluate(
    model: Model,
    method: Method | None,
    examples: list[Example],
    rows: Rows,
    *,
    spec: EvaluateSpec,
    folder: Path | None = None,
    notes: Iterable[str] = (),
    on_progress: Progress | None = None,
) -> Evaluation:
    """Compare base and tuned, and keep the result in ``folder/evaluation``.

    Args:
        model, method: the tuned model and what it was tuned with; the base is had from them (`inference.sides`).
        examples: held-out rows, to be answered. rows: the same as tokens, to be read.
        folder: the run's folder; None keeps nothing. notes: what a reader should know about these rows.
        on_progress: called with (done, total), in rows read or answered by either side.

    Raises:
        SpecError: ``spec.metric`` names no metric.
    """
    start = time.perf_counter()
    metric(spec.metric) if spec.metric != "auto" else None  # a mistyped name is told before minutes are spent
    asked, unasked = questions(model, examples, most=spec.rows)
    limit = longest_answer(model, asked) if spec.max_tokens == "auto" else spec.max_tokens
    count = _Counter(2 * (len(rows) + len(asked)), on_progress)
    sides = Sides(model, method)
    labels = detect([expected_answer(e, model.renderer) for e in examples if e.form != "text"])
    read, answers, picked = {}, {}, {}
    for side in SIDES:
        with sides.side(side) as answering:
            read[side] = likelihood(answering, rows, on_progress=count.stage())
            answers[side] = _answers(answering, asked, limit, count.stage())
            picked[side] = choosing.chosen(answering, asked, labels) if choosing.choosable(labels) else []
    items = _items(model.renderer, asked, answers, labels)
    _score_choices(items, picked, labels)
    found = _compared(items, read, labels, spec)
    found.notes, found.rows, found.max_tokens, found.seconds = (
        [*notes, *unasked, *found.notes],
        len(rows),
        limit,
        time.perf_counter() - start,
    )
    if folder is not None:
        write_items(found.items, folder / "evaluation" / "items.jsonl")
        write_json(folder / "evaluation" / "sample.json", sample(rows, model.renderer))
        write_json(folder / "evaluation" / "summary.json", found.to_json())  # last: its presence says that all is there
    return found


def longest_answer(model: Model, asked: list[Question]) -> int:
    """Room for one and a half times the longest expected answer and 16 tokens more."""
    longest = max((len(model.renderer.encode(q.expected)) for q in asked), default=0)
    return min(math.ceil(1.5 * longest) + 16, model.context)


class _Counter:
    """Progress over several stages as one number."""

    def __init__(self, total: int, listener: Progress | None) -> None:
        self.total, self.listener, self.base, self.last = total, listener, 0, 0

    def stage(self) -> Callable[[int], None]:
        self.base += self.last
        self.last = 0

        def done(count: int) -> None:
            self.last = count
            if self.listener:
                self.listener(self.base + count, self.total)

        return done


def _answers(model: Model, asked: list[Question], limit: int, done: Callable[[int], None]) -> list[Generation]:
    stop = model.renderer.end_tokens
    return generate(model, [q.prompt for q in asked], max_tokens=limit, stop=stop, on_progress=lambda n, _: done(n)) if asked else []


def _compared(
    items: list[Item],
    read: dict[Side, Likelihood],
    labels: Labels,
    spec: EvaluateSpec,
) -> Evaluation:
    paired = pairs.measures(read["base"], read["tuned"], resamples=spec.resamples)
    name, why = (pairs.NAME, pairs.WHY) if paired and spec.metric == "auto" else _metric(spec, labels, items)
    measures = paired | _read_measures(read, spec.resamples) | _answer_measures(items, labels, spec)
    tables = {side: _table(items, side, labels) for side in SIDES} if labels.found and items else {}
    notes = [measures[name].warning] if measures[name].warning else []
    return Evaluation(measures[name], name, why, measures, items, labels, tables, notes)


def _metric(spec: EvaluateSpec, labels: Labels, items: list[Item]) -> tuple[str, str]:
    if not items:
        asked = "" if spec.metric == "auto" else f"{spec.metric} was asked for, but "
        return "bits_per_byte", f"{asked}no row was answered by generation"
    if spec.metric == "label_accuracy" and not labels.found:
        return spec.metric, f"asked for (evaluate.metric); whole answers are taken as labels, though {labels.reason}"
    if spec.metric != "auto":
        return spec.metric, "asked for (evaluate.metric)"
    return ("label_accuracy" if labels.found else "chrf"), labels.reason


def _items(renderer: Renderer, asked: list[Question], answers: dict[Side, list[Generation]], labels: Labels) -> list[Item]:
    return [
        Item(
            file=q.example.source.file,
            row=q.example.source.row,
            prompt=[{"role": m.role, "content": m.content} for m in q.messages],
            expected=q.expected,
            base=_answer(renderer, q.expected, base, labels),
            tuned=_answer(renderer, q.expected, tuned, labels),
        )
        for q, base, tuned in zip(asked, answers["base"], answers["tuned"], strict=True)
    ]


def _answer(renderer: Renderer, expected: str, generation: Generation, labels: Labels) -> Answer:
    text = renderer.decode(generation.answer)
    scores = {name: metric(name).score(expected, text, labels=labels, stopped=generation.stopped) for name in FOLDER.names()}
    return Answer(text, len(generation.tokens), generation.stopped, scores)


def _score_choices(items: list[Item], picked: dict[Side, list[str]], labels: Labels) -> None:
    for side in SIDES:
        for item, label in zip(items, picked[side], strict=False):  # nothing was picked where there are no labels
            getattr(item, side).scores[choosing.NAME] = float(label == labels.read(item.expected))


def _answer_measures(items: list[Item], labels: Labels, spec: EvaluateSpec) -> dict[str, Verdict]:
    found = {}
    for name in FOLDER.names() if items else []:
        if name == "label_accuracy" and not labels.found and spec.metric != name:
            continue  # without labels it would repeat exact match under another name
        part = metric(name)
        scores = {side: [getattr(item, side).scores[name] for item in items] for side in SIDES}
        found[name] = verdict(
            scores["base"],
            scores["tuned"],
            metric=part.title,
            unit=part.unit,
            scale=part.scale,
            higher_is_better=part.higher_is_better,
            resamples=spec.resamples,
        )
    if items and choosing.NAME in items[0].base.scores:
        left, right = ([getattr(item, side).scores[choosing.NAME] for item in items] for side in SIDES)
        unit = f"points of {choosing.TITLE}"
        found[choosing.NAME] = verdict(left, right, metric=choosing.TITLE, unit=unit, scale=100.0, resamples=spec.resamples)
    return found


def _read_measures(read: dict[Side, Likelihood], resamples: int) -> dict[str, Verdict]:
    """Ratios of sums over rows: resampling rows with their sizes keeps each row's numerator and denominator together."""
    base, tuned = read["base"], read["tuned"]

    def ratio(name: str, size: str, **words: Any) -> Verdict:
        sizes = np.maximum(getattr(base, size), 1e-9)
        left, right = getattr(base, name) / sizes, getattr(tuned, name) / sizes
        return verdict(left, right, weights=sizes, resamples=resamples, **words)

    return {
        "loss": ratio("nats_R", "weight_R", metric="loss", unit="nats per learned token", higher_is_better=False),
        "bits_per_byte": ratio("bits_R", "bytes_R", metric="bits per byte", higher_is_better=False),
        "token_accuracy": ratio("hits_R", "tokens_R", metric="token accuracy", unit="points of token accuracy", scale=100.0),
    }


def _table(items: list[Item], side: Side, labels: Labels) -> dict[str, Any]:
    return extras("label_accuracy", [i.expected for i in items], [getattr(i, side).text for i in items], labels=labels)
