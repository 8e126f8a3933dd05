"""Labels chosen instead of written: which of the labels does the model find likeliest after the prompt?

A base that has never seen the form of the answers writes none of the labels and scores zero, though it may well know which one fits.
Choosing takes the form out of the comparison. The prompt is read once for all labels (`choices`).
"""

from __future__ import annotations

from luthier.data.render import Renderer
from luthier.evaluation import choices
from luthier.evaluation.labels import Labels
from luthier.evaluation.questions import Question
from luthier.models.model import Model

NAME, TITLE = "choice_accuracy", "choice accuracy"

MOST_LABELS = 20
"""With more, reading every label after every prompt would cost more than generating the answers did."""


def choosable(labels: Labels) -> bool:
    """Whether there are labels, and few enough of them."""
    return labels.found and len(labels.texts) <= MOST_LABELS


def chosen(model: Model, asked: list[Question], labels: Labels) -> list[str]:
    """The likeliest label after each prompt, as `Labels.read` gives it; empty where no label fits behind the prompt.

    Labels are weighed by the probability of their whole text with what ends it: the end of the line or of the turn.
    """
    spoken = [_ended(text, labels, model.renderer) for text in labels.texts]
    room = model.context - max(map(len, spoken))
    fitting = [q for q in asked if len(q.prompt) <= room]
    picked = iter(choices.choose_all(model, [choices.Question(q.prompt, spoken) for q in fitting]))
    return [labels.values[next(picked).index] if len(q.prompt) <= room else "" for q in asked]


def _ended(text: str, labels: Labels, renderer: Renderer) -> list[int]:
    return renderer.encode(f"{text}\n") if labels.where == "first_line" else [*renderer.encode(text), renderer.end_token]
