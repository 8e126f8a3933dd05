"""The objective of a Spec, what it makes of the rows, and its head: joined with the method for training, loaded with it for answering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from luthier.core.events import Listener, Note, silence
from luthier.core.sequence import Rows
from luthier.core.spec import Part, Spec, checked
from luthier.data.render import Renderer
from luthier.jobs import specs
from luthier.methods._headed import Headed
from luthier.models.model import Model
from luthier.models.predictor import Predictor


def objective(spec: Spec) -> Any:
    """The objective of a Spec, its options checked by their owner."""
    part = specs.OBJECTIVES.load(spec.objective.name)
    return part.Objective(checked(part.Options, spec.objective.options, path="objective"))


def settled(spec: Spec, rows: Rows, valid: Rows, renderer: Renderer, *, listen: Listener) -> Spec:
    """The options the objective derives from the rows, filled in and told."""
    part = objective(spec)
    if not hasattr(part, "settle"):
        return spec
    found, told = part.settle(rows, valid, renderer)
    for text in told:
        listen(Note(text))
    return spec.model_copy(update={"objective": Part(**{**spec.objective.model_dump(), **found})})


def laid(spec: Spec, rows: Rows, renderer: Renderer) -> Rows:
    """The rows as the objective reads them."""
    part = objective(spec)
    found: Rows = part.lay(rows, renderer) if hasattr(part, "lay") else rows
    return found


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
