"""The objective of a Spec, what it makes of the rows, and its head: joined with the method for training, loaded with it for answering."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.events import Listener, Note, silence
from luthier.core.sequence import Rows
from luthier.core.spec import Part, Spec, checked
from luthier.data.render import Renderer
from luthier.data.said import Answers, Items
from luthier.engine.score import outputs
from luthier.evaluation import calibration, graded, nearness, predictions
from luthier.evaluation.evaluate import Evaluation, evaluate
from luthier.evaluation.graders import grader
from luthier.jobs import specs
from luthier.methods._headed import Headed
from luthier.models.model import Model
from luthier.models.predictor import Meaning, Predictor
from luthier.objectives._answers import TARGET


def objective(spec: Spec) -> Any:
    """The objective of a Spec, its options checked by their owner."""
    part = specs.OBJECTIVES.load(spec.objective.name)
    return part.Objective(checked(part.Options, spec.objective.options, path="objective"))


def settled(spec: Spec, rows: Rows, valid: Rows, renderer: Renderer, *, listen: Listener) -> Spec:
    """The options the objective derives from the rows, filled in and told."""
    part = objective(spec)
    if not hasattr(part, "settle"):
        return spec
    found, told = part.settle(rows, valid, renderer, Answers(spec.data.format))
    for text in told:
        listen(Note(text))
    return spec.model_copy(update={"objective": Part(**{**spec.objective.model_dump(), **found})})


def laid(spec: Spec, rows: Rows, renderer: Renderer, *, format: str = "") -> Rows:
    """The rows as the objective reads them.

    Args:
        format: name of the reader of their file, where it is not that of the Spec.
    """
    part = objective(spec)
    found: Rows = part.lay(rows, renderer, Answers(format or spec.data.format)) if hasattr(part, "lay") else rows
    return found


def judge(spec: Spec) -> Callable[..., Evaluation]:
    """How a run of this objective is judged on held-out rows: by its embeddings, its grades, its head, or its answers."""
    part = objective(spec)
    how = getattr(part, "judged", "")
    if how == "nearness":
        return nearness.evaluate
    if how == "grade":
        return graded.judged(grader(part.options.grader), Items(spec.data.format).of)
    return evaluate if part.meaning is None else predictions.evaluate


def headed(spec: Spec, model: Model, method: Any, *, listen: Listener = silence) -> Any:
    """`method`, which is attached already, with the head the objective asks for; itself where none is asked for.

    A base that has a head lends it what both say.
    """
    meaning = objective(spec).meaning
    if meaning is None:
        return method
    own = model.predictor
    model.predictor = Predictor(model.width, meaning, seed=spec.train.seed, device=model.device)
    if own is not None:
        told = model.predictor.begin_as(own)
        listen(Note(told))
    return Headed(method)


def load(spec: Spec, model: Model, folder: Path) -> Any:
    """What was trained, attached to `model`: the method, and the head where there is one.

    Raises:
        ModelError: a file is missing or belongs to another model (``head_lost``, ``adapter``, ``weights``).
    """
    kind = specs.METHODS.load(spec.method.name).Method
    return kind.load(model, folder) if objective(spec).meaning is None else Headed.load(kind, model, folder)


def finish(predictor: Predictor, rows: Rows, valid: Rows, model: Model) -> None:
    """What is known of a head when its weights are: how its outputs become probabilities, and what it has to beat.

    Args:
        rows, valid: training and held-out rows as the head reads them.
    """
    meaning = predictor.meaning
    several = [sequence for row in valid for sequence in row.sequences]
    temperature = 1.0
    if meaning.kind != "ranking" and several:
        found_NC, targets = np.concatenate(outputs(model, several)), np.concatenate([s.beside[TARGET] for s in several])
        temperature = calibration.temperature(meaning.kind, found_NC, targets)
    predictor.finish(temperature=temperature, usual="" if meaning.kind == "ranking" else _usual(meaning, rows))


def _usual(meaning: Meaning, rows: Rows) -> str:
    said = [answer for row in rows for sequence in row.sequences for answer in meaning.truth(sequence.beside[TARGET])]
    if meaning.kind == "number":
        return repr(float(np.median(said)))
    return Counter(json.dumps(answer) if isinstance(answer, list) else answer for answer in said).most_common(1)[0][0]
