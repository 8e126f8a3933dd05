"""A head on held-out rows: against always saying what is usual, and against the base that writes or chooses its answer.

| kind | numbers |
|---|---|
| class | accuracy, macro F1 |
| labels | accuracy (the whole set is right), macro F1 |
| ordinal | accuracy, mean error in steps |
| number | mean absolute error |
| tags | F1 of whole spans (`evaluation.spans`), accuracy per word |
| ranking | pair accuracy, against a coin |

The verdict is about the first, against whichever does better: the usual answer, or the base.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.core.example import Example
from luthier.core.files import write_json
from luthier.core.sequence import Row, Rows
from luthier.core.spec import EvaluateSpec
from luthier.engine.score import outputs
from luthier.evaluation import calibration, choosing
from luthier.evaluation.agreement import Agreement, agreement
from luthier.evaluation.evaluate import Evaluation, Progress
from luthier.evaluation.items import Answer, Item, write_items
from luthier.evaluation.labels import Labels, labels_of
from luthier.evaluation.metrics import extras
from luthier.evaluation.questions import before_last_answer, questions
from luthier.evaluation.verdict import Verdict, concluded, resampled, verdict
from luthier.inference.sides import Method, Sides
from luthier.models.model import Model
from luthier.models.predictor import Meaning, Predictor

MOST_READ = 20_000
"""Labels behind prompts the base is asked to weigh; with more it is not asked."""

OVER_BASE = "_over_base"
"""Ends the name of a number that compares with the base instead of the usual answer."""

WHAT = {
    "class": "one label",
    "labels": "any number of labels",
    "ordinal": "one label of an order",
    "number": "a number",
    "tags": "a tag for every word",
    "ranking": "which answer is better",
}


@dataclass
class Said:
    """One held-out row.

    Attributes:
        right, tuned, usual: what is right, what the head says, what is usual. base: what the base chooses; None where it was not asked.
        sure: the head's mean probability of what it says; nan where it has none.
    """

    right: Any
    tuned: Any
    usual: Any
    sure: float
    base: Any = None


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
    """Compare the head with what is usual and with the base, and keep the result in ``folder/evaluation``.

    Args:
        examples: held-out rows. rows: the same as the head reads them.
        Others as in `evaluation.evaluate.evaluate`.
    """
    start, predictor = time.perf_counter(), _predictor(model)
    meaning, laid = predictor.meaning, list(rows)
    by_source = {(e.source.file, e.source.row): e for e in examples}
    given = [by_source[row.source.file, row.source.row] for row in laid]
    places_LC = outputs(model, [s for row in laid for s in row.sequences])
    said = list(_said(predictor, laid, iter(places_LC)))
    labels = labels_of(list(meaning.labels))
    shown = _spread(len(given), spec.rows)
    if _can_choose(model, labels, len(shown)):
        _ask_base(model, method, [(given[i], said[i]) for i in shown], labels)
    measures = _measures(said, meaning, spec.resamples)
    name = _decisive(measures, spec)
    items = [_item(given[i], said[i], agreement(meaning.kind, meaning.labels)[0]) for i in shown]
    found = Evaluation(measures[name], name, f"a head that says {WHAT[meaning.kind]}", measures, items, labels)
    if meaning.kind in ("class", "ordinal"):
        found.tables = {"tuned": extras("label_accuracy", [s.right for s in said], [s.tuned for s in said], labels=labels)}
    found.notes = [*notes, *_calibration(meaning, said), *([measures[name].warning] if measures[name].warning else [])]
    found.rows, found.seconds = len(said), time.perf_counter() - start
    if on_progress:
        on_progress(len(said), len(said))
    if folder is not None:
        write_items(found.items, folder / "evaluation" / "items.jsonl")
        write_json(folder / "evaluation" / "summary.json", found.to_json())  # last: its presence says that all is there
    return found


def _predictor(model: Model) -> Predictor:
    assert model.predictor is not None, "there is no head to judge"
    return model.predictor


def _said(predictor: Predictor, rows: list[Row], places_LC: Iterator[NDArray[np.float32]]) -> Iterator[Said]:
    meaning = predictor.meaning
    for row in rows:
        found = [(sequence, torch.from_numpy(next(places_LC))) for sequence in row.sequences]
        if meaning.kind == "ranking":
            score = {sequence.part: float(outputs_LC[0, 0]) for sequence, outputs_LC in found}
            yield Said(1.0, (1 + float(np.sign(score["chosen"] - score["rejected"]))) / 2, 0.5, math.nan)
            continue
        ((sequence, outputs_LC),) = found
        right, tuned = meaning.truth(sequence.beside["target"]), predictor.read(outputs_LC)
        usual = [meaning.usually()] * len(right)
        sure = _sureness(predictor, outputs_LC)
        yield Said(right, tuned, usual, sure) if meaning.kind == "tags" else Said(right[0], tuned[0], usual[0], sure)


def _sureness(predictor: Predictor, outputs_LC: Tensor) -> float:
    if predictor.meaning.kind == "number":
        return math.nan
    p_LC = predictor.probabilities(outputs_LC)
    return float((torch.maximum(p_LC, 1 - p_LC).prod(-1) if predictor.meaning.kind == "labels" else p_LC.max(-1).values).mean())


def _spread(rows: int, most: int) -> list[int]:
    return list(range(rows)) if rows <= most else [i * rows // most for i in range(most)]


def _can_choose(model: Model, labels: Labels, rows: int) -> bool:
    """Whether the base writes tokens at all, and weighing every label behind every prompt costs no more than it is worth."""
    kind, gives = _predictor(model).meaning.kind, getattr(model.family, "GIVES", frozenset({"next-token"}))
    distinct = len(set(labels.values)) == len(labels.values)
    return kind in ("class", "ordinal") and "next-token" in gives and distinct and 0 < len(labels.texts) * rows <= MOST_READ


def _ask_base(model: Model, method: Method | None, rows: list[tuple[Example, Said]], labels: Labels) -> None:
    """Let the base choose among the labels behind each prompt."""
    asked, _ = questions(model, [example for example, _ in rows], most=len(rows))
    said = {(e.source.file, e.source.row): s for e, s in rows}
    texts = dict(zip(labels.values, labels.texts, strict=True))
    with Sides(model, method).side("base") as answering:
        for question, label in zip(asked, choosing.chosen(answering, asked, labels), strict=True):
            said[question.example.source.file, question.example.source.row].base = texts.get(label, "")


def _measures(said: list[Said], meaning: Meaning, resamples: int) -> dict[str, Verdict]:
    """Every number twice, where the base was asked: against the usual answer, and against the base."""
    found: dict[str, Verdict] = {}
    short = meaning.usual if len(meaning.usual) < 30 else f"{meaning.usual[:27]}..."
    over = "over a coin" if meaning.kind == "ranking" else f"over always saying {short!r}"
    asked = [s for s in said if s.base is not None]
    for score in agreement(meaning.kind, meaning.labels):
        found[score.name] = _measure(score, [(s.right, s.usual, s.tuned) for s in said], over, resamples)
        if asked and meaning.kind in ("class", "ordinal"):
            both = [(s.right, s.base if s.base in meaning.labels else s.usual, s.tuned) for s in asked]
            found[f"{score.name}{OVER_BASE}"] = _measure(score, both, "over the base, which chose among the labels", resamples)
    return found


def _measure(score: Agreement, rows: list[tuple[Any, Any, Any]], over: str, resamples: int) -> Verdict:
    right, left, tuned = (list(column) for column in zip(*rows, strict=True))
    words: dict[str, Any] = {"metric": f"{score.title} {over}", "unit": f"{score.unit} {over}", "higher_is_better": score.higher_is_better}
    if score.row is not None:
        base, other = ([score.row(a, b) for a, b in zip(right, said, strict=True)] for said in (left, tuned))
        return verdict(base, other, scale=score.scale, resamples=resamples, **words)
    differing = sum(a != b for a, b in zip(left, tuned, strict=True))
    interval, means = resampled(score.statistic(right, left, tuned), len(rows), differing, resamples=resamples)
    return concluded(interval, means, len(rows), **words)


def _decisive(measures: dict[str, Verdict], spec: EvaluateSpec) -> str:
    """The number the verdict is about: against the better of its two opponents."""
    first = spec.metric if spec.metric in measures else next(iter(measures))
    other = f"{first}{OVER_BASE}"
    if other not in measures:
        return first
    sign = 1 if measures[first].higher_is_better else -1
    return other if sign * measures[other].base > sign * measures[first].base else first


def _item(example: Example, said: Said, score: Agreement) -> Item:
    other = said.usual if said.base is None else said.base
    scores = [score.row(said.right, answer) if score.row else 0.0 for answer in (other, said.tuned)]
    prompt = [{"role": m.role, "content": m.content} for m in before_last_answer(example)]
    sure = "" if math.isnan(said.sure) else f" ({said.sure:.0%} sure)"
    base, tuned = (
        Answer(_text(answer) + more, 0, True, {score.name: value})
        for answer, more, value in ((other, "", scores[0]), (said.tuned, sure, scores[1]))
    )
    return Item(example.source.file, example.source.row, prompt, _text(said.right), base, tuned)


def _text(answer: Any) -> str:
    return ", ".join(map(str, answer)) if isinstance(answer, list) else f"{answer:g}" if isinstance(answer, float) else str(answer)


def _calibration(meaning: Meaning, said: list[Said]) -> list[str]:
    if meaning.kind not in ("class", "ordinal") or not said:
        return []
    off = calibration.error(np.array([s.sure for s in said]), np.array([s.right == s.tuned for s in said]))
    return [
        f"Probabilities: temperature {meaning.temperature:.2f}; how sure the head is and how often it is right lie {100 * off:.1f} points "
        "apart on average (expected calibration error)."
    ]
