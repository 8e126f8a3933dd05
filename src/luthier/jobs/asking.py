"""How a finished run is asked, and what its head is asked: laid as the rows it learned from were."""

from __future__ import annotations

from typing import Literal

from luthier.core.errors import DataError
from luthier.core.example import Example, Message
from luthier.core.sequence import Row, Sequence
from luthier.core.spec import Spec
from luthier.data.refusals import blind
from luthier.data.unanswered import Unanswered, unanswered
from luthier.jobs import heads
from luthier.models.config import read_config
from luthier.models.families import family_of
from luthier.models.find import find
from luthier.models.model import Model
from luthier.objectives._answers import Ended, asked, worded

AnswersTo = Literal["chat", "predict", ""]


def answers_to(spec: Spec) -> AnswersTo:
    """The verb a run is asked with, one question at a time; empty where only `evaluate` asks it."""
    part = heads.objective(spec)
    if part.meaning is not None:
        return "predict"
    family = family_of(read_config(find(spec.model.name)).model_type)
    talks = {"next-token", "words"} <= family.GIVES and getattr(part, "judged", "") != "nearness"
    return "chat" if talks else ""


def question(row: Unanswered, number: int, model: Model, *, system: str = "") -> Sequence:
    """A row given by hand, as the head of `model` reads it.

    Args:
        number: of the row among those asked, from 1. system: instructions before it.

    Raises:
        DataError: the row does not pass, has something the model does not take in, or is longer than it reads.
    """
    assert model.predictor is not None, "there is no head to ask"
    kind = model.predictor.meaning.kind
    example = unanswered(row, number, answered=kind == "ranking")
    if system:
        example.messages.insert(0, Message("system", system))
    try:
        sequence = _laid(example, model, kind)
        if (length := model.renderer.length(sequence)) > model.context:
            what = f"It has {length:,} tokens; {model.name} reads {model.context:,}."
            raise DataError(what, remedy="Shorten it.", code="prompt_too_long")
    except DataError as error:
        if error.where:
            raise
        raise DataError(error.what, where=str(example.source), remedy=error.remedy, code=error.code) from error
    return sequence


def _laid(example: Example, model: Model, kind: str) -> Sequence:
    renderer = model.renderer
    seen = {medium.kind for message in example.messages for medium in message.media}
    if renderer.plain is None and seen - ({"image"} if renderer.eyes else set()):
        raise blind()
    if kind == "tags":
        return worded(example.words or example.messages[-1].content.split(), renderer)
    if kind != "ranking":
        return asked(renderer.prompt_of(example), renderer)
    if example.messages[-1].role != "assistant":
        raise DataError(
            "A head that scores answers wants one, and the row ends with the question.",
            remedy='Give prompt and completion: {"prompt": "Where is it?", "completion": "On its way."}.',
            code="nothing_learned",
        )
    return Ended([Row(example.source, renderer.render(example, learn="last_answer"))])[0].sequences[-1]
