"""Predict a label, several, one in an order, or a number, by a small head on the model's state behind the question.

x is the state behind the question, ``z = W x + b`` what the head says (``models/predictor.py``), y what it should say:

    class     cross-entropy of softmax z, y smoothed: 1 - e on its class, e / C on all
    labels    sum over the C labels of the binary cross-entropy of sigmoid z_c
    ordinal   sum over the C - 1 borders of the binary cross-entropy of sigmoid z_k with [y > k] (arXiv 1901.07884, eq. 4)
    number    (z - y)^2 / 2, y in standard deviations from the mean of the rows
    tags      as class, at the last token of every word, the mean over words

A row counts its class weight: with ``balanced`` classes, rows / (C x rows of its class), so that every class counts alike
(King and Zeng, "Logistic regression in rare events data", 2001).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from luthier.core.errors import SpecError
from luthier.core.sequence import Per, Rows
from luthier.core.spec import Auto, Strict
from luthier.data.render import Renderer
from luthier.models.predictor import Meaning
from luthier.objectives._answers import TARGET, Answered, Answers, Tagged, answers_of
from luthier.objectives._forest import Forest

FEW = 20
"""So many different numbers are still taken for names of classes."""


class Options(Strict):
    """Settings of a head."""

    kind: Literal["class", "labels", "ordinal", "number", "tags"] | Auto = "auto"
    """One label, several (commas between, or a JSON list), one in an order, a number, or a tag for every word; auto looks at the rows."""
    labels: list[str] | Auto = "auto"
    """Every label, for ordinal from low to high; auto takes those of the rows, numbers in their order."""
    class_weights: Literal["none", "balanced"] | list[float] = "none"
    """How much a row of each label counts: none, balanced (every label alike, however rare), or a number for each label."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of certainty taken from the right label and given to all."""
    spread: list[float] | Auto = "auto"
    """Mean and standard deviation of the numbers, with which the head begins; auto takes those of the rows."""


class Objective:
    """A head on the states; a step's loss is the mean over its rows, each by its weight."""

    learn: str | None = "last_answer"
    pairs = False
    needs: frozenset[str] = frozenset({"states"})
    supports: frozenset[str] = frozenset({"head"})
    beside: frozenset[str] = frozenset()
    per: Per = "weight"
    rate = 1.0

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    @property
    def reads(self) -> frozenset[str]:
        """Tags stand at words."""
        return frozenset({"tags"} if self.options.kind == "tags" else ())

    @property
    def meaning(self) -> Meaning | None:
        """How the head's outputs are read; to be asked when the options are settled."""
        o = self.options
        assert o.kind != "auto" and o.labels != "auto" and o.spread != "auto", "settle the options first"
        return Meaning(o.kind, tuple(o.labels), centre=o.spread[0], scale=o.spread[1])

    def settle(self, rows: Rows, valid: Rows, renderer: Renderer, answers: Answers) -> tuple[dict[str, Any], list[str]]:
        """Every ``auto`` from the answers of `rows`; a label may occur in the held-out rows alone.

        Returns:
            the options that were derived, and a sentence for each.

        Raises:
            SpecError: there is nothing to tell apart.
        """
        asked, said = self.options, list(answers_of(rows, renderer))
        kind = asked.kind if asked.kind != "auto" else "tags" if all(answers.of(row.source).words for row in rows) else _kind(said)
        told = [f"objective.kind {kind}: {_seen(said)}"] if asked.kind == "auto" else []
        found: dict[str, Any] = {"kind": kind, "labels": asked.labels, "spread": asked.spread}
        if asked.labels == "auto":
            every = [*said, *answers_of(valid, renderer)]
            found["labels"] = [] if kind == "number" else _ordered({one for text in every for one in _split(text, kind)})
            told += [f"objective.labels: {_some(found['labels'])}"] if found["labels"] else []
        if kind != "number" and len(found["labels"]) < 2:
            what = f"There is nothing to tell apart: the labels are {_some(found['labels'])}."
            raise SpecError(what, remedy="Add rows of another label.", code="bad_value")
        if asked.spread == "auto":
            found["spread"] = _spread(said) if kind == "number" else [0.0, 1.0]
        if asked.class_weights == "balanced" and kind in ("class", "ordinal", "tags"):
            counts = Counter(one for text in said for one in _split(text, kind))
            found["class_weights"] = [counts.total() / (len(counts) * max(counts[label], 1)) for label in found["labels"]]
        return found, told

    def lay(self, rows: Rows, renderer: Renderer, answers: Answers) -> Rows:
        """The rows as the head reads them."""
        if self.options.kind == "tags":
            return Tagged(rows, renderer, answers, self._target)
        return Answered(rows, renderer, self._target)

    def loss(self, forest: Forest) -> Tensor:
        """Sum over the rows of a forest, each by its weight."""
        return (forest.weights_N * self._losses(forest.outputs(), forest.beside(TARGET))).sum()

    def _losses(self, outputs_NC: Tensor, targets: Tensor) -> Tensor:
        kind, smoothing = self.options.kind, self.options.label_smoothing
        if kind in ("class", "tags"):
            return F.cross_entropy(outputs_NC, targets, reduction="none", label_smoothing=smoothing)
        if kind == "number":
            return 0.5 * (outputs_NC[:, 0] - targets).square()
        smoothed_NC = targets * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs_NC, smoothed_NC, reduction="none").sum(-1)

    def _target(self, text: str) -> tuple[NDArray[Any], float]:
        meaning = self.meaning
        assert meaning is not None
        if meaning.kind == "number":
            return np.array((float(text) - meaning.centre) / meaning.scale, np.float32), 1.0
        places = [_place(label, meaning.labels) for label in ([text] if meaning.kind == "tags" else _split(text, meaning.kind))]
        if meaning.kind == "labels":
            values = np.zeros(meaning.outputs, np.float32)
            values[places] = 1.0
            return values, 1.0
        (place,), weights = places, self.options.class_weights
        value = np.array(place, np.int64) if meaning.kind != "ordinal" else (np.arange(meaning.outputs) < place).astype(np.float32)
        return value, weights[place] if isinstance(weights, list) else 1.0


def _kind(said: list[str]) -> str:
    numbers = all(_is_number(text) for text in said)
    return "number" if numbers and len(set(said)) > FEW else "class"


def _seen(said: list[str]) -> str:
    return f"{len(said)} answers, {len(set(said))} different{', all numbers' if all(map(_is_number, said)) else ''}"


def _some(labels: list[str]) -> str:
    return f"{len(labels)}, {', '.join(labels[:5])}{' ...' if len(labels) > 5 else ''}"


def _spread(said: list[str]) -> list[float]:
    """Mean and standard deviation; 1 where all numbers are the same."""
    numbers = np.array([float(text) for text in said])
    return [float(numbers.mean()), float(numbers.std()) or 1.0]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _ordered(labels: set[str]) -> list[str]:
    return sorted(labels, key=float) if all(map(_is_number, labels)) else sorted(labels)


def _split(text: str, kind: str) -> list[str]:
    """The labels of one answer."""
    if kind != "labels":
        return text.split(" ") if kind == "tags" else [text]
    try:
        listed = json.loads(text)
    except ValueError:
        listed = text.split("\n") if "\n" in text else text.split(",")
    found = listed if isinstance(listed, list) else [listed]
    return [str(label).strip() for label in found if str(label).strip()]


def _place(label: str, labels: tuple[str, ...]) -> int:
    if label not in labels:
        raise ValueError(f"{label!r} is none of the {len(labels)} labels")
    return labels.index(label)
