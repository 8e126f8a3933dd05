"""A finished run in the hand: its verdict, its files, and somebody to talk to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import from_numpy

from luthier.core.errors import NotFound, SpecError
from luthier.core.spec import Spec, checked
from luthier.data.unanswered import Unanswered
from luthier.engine.score import outputs
from luthier.engine.session import Method
from luthier.evaluation import certificate
from luthier.evaluation.items import read_items
from luthier.inference.chat import Conversation, Settings
from luthier.inference.sides import Side, Sides
from luthier.jobs import asking, heads, specs
from luthier.jobs.asking import AnswersTo
from luthier.models.load import load as load_model
from luthier.models.model import Model
from luthier.store.runs import RunFolder, read_json


@dataclass(frozen=True)
class Prediction:
    """What a head says of one row.

    Attributes:
        said: a label, a list of labels (or a tag for every word), or a number: for an answer to be scored, its score.
        sure: probability of each label, calibrated; empty for numbers and tags.
    """

    said: Any
    sure: dict[str, float]


class Run:
    """One run, read from its folder. The model is loaded when it is first needed, and its certificate replayed then.

    Example:
        ``run = luthier.tune("tickets.jsonl", model="luthier-mini"); print(run.verdict); print(run.chat("Where is my parcel?"))``
    """

    def __init__(self, folder: RunFolder) -> None:
        self.files = folder

    def __repr__(self) -> str:
        return f"<Run {self.files.id}: {self.verdict or self.files.state()['state']}>"

    @property
    def folder(self) -> Path:
        """Where everything about the run is."""
        return self.files.path

    @property
    def summary(self) -> dict[str, Any]:
        """``evaluation/summary.json``; empty when the run was not evaluated."""
        return read_json(self.files.evaluation / "summary.json")

    @property
    def verdict(self) -> str:
        """Is tuned better than base? One sentence; empty when the run was not evaluated."""
        verdict = self.summary.get("verdict", {})
        return str(verdict.get("sentence", ""))

    @property
    def answers_to(self) -> AnswersTo:
        """How it is asked one thing: in a conversation, by its head, or in neither way (`embed`; a model that writes beside a source)."""
        return asking.answers_to(self.spec)

    @cached_property
    def spec(self) -> Spec:
        """Everything that decided the run."""
        return specs.load(self.files.spec)

    @cached_property
    def _opened(self) -> tuple[Model, Any]:
        model, method = opened(self.files, self.spec)
        if self.files.certificate.is_file():
            certificate.replay(model, method, self.folder)
        return model, method

    @property
    def model(self) -> Model:
        """The base with what was trained attached."""
        return self._opened[0]

    @property
    def method(self) -> Any:
        """Which weights moved."""
        return self._opened[1]

    @cached_property
    def sides(self) -> Sides:
        """Base and tuned, whichever way the method lets one have both."""
        return Sides(self.model, self.method)

    def chat(self, text: str, *, side: Side = "tuned", system: str = "", settings: Settings | None = None) -> str:
        """The answer to one message, without any conversation before it.

        Args:
            side: who answers: ``tuned`` or ``base``.
            system: instructions; left out, those the first held-out row was answered under.
        """
        return "".join(self.conversation(system=system, settings=settings).ask(text, side=side))

    def predict(self, rows: Sequence[Unanswered], *, system: str = "") -> list[Prediction]:
        """What the head says of each row: a text, or fields as a file has them, without the answer (``data/unanswered.py``).

        Args:
            rows: paths of pictures and sounds in them begin at the present folder. For a head that scores answers, rows have theirs.
            system: instructions before each row, where those of the run had some.

        Raises:
            SpecError: the run has no head: its objective writes answers.
            DataError: a row does not pass, or has something the model does not take in.

        Example:
            ``run.predict(["Where is it?"])``, ``run.predict([{"image": "17.png"}])``, ``run.predict([{"audio": "17.wav"}])``
        """
        predictor = self.model.predictor
        if predictor is None:
            raise SpecError("This run has no head to ask.", remedy="Ask it with chat, or tune with objective predict.", code="no_head")
        laid = [asking.question(row, number, self.model, system=system) for number, row in enumerate(rows, 1)]
        tags = predictor.meaning.kind == "tags"
        read = [(predictor.read(out), out) for out in map(from_numpy, outputs(self.model, laid))]
        return [Prediction(said, {}) if tags else Prediction(said[0], predictor.sureness(out)) for said, out in read]

    def conversation(self, *, system: str = "", settings: Settings | None = None) -> Conversation:
        """A conversation that remembers its turns; see `inference.chat`."""
        return Conversation(self.sides, settings or Settings(), system=system or self._system())

    def _system(self) -> str:
        path = self.files.evaluation / "items.jsonl"
        first = next(read_items(path), None) if path.is_file() else None
        return next((turn["content"] for turn in first.prompt if turn["role"] == "system"), "") if first else ""


def opened(folder: RunFolder, spec: Spec) -> tuple[Model, Any]:
    """Base and trained delta of a finished run, attached.

    Raises:
        NotFound: the run has no trained weights yet.
    """
    kind = specs.METHODS.load(spec.method.name).Method
    weights = folder.path / kind.folder_name
    if not weights.is_dir():
        remedy = f"It is {folder.state()['state']}: finish it with `luthier tune --resume {folder.name}`."
        raise NotFound("This run has no trained weights yet.", where=str(folder.path), remedy=remedy, code="unfinished_run")
    model = load_model(spec.model.name, dtype=spec.model.dtype, context=spec.model.context)
    return model, heads.load(spec, model, weights)


def fresh_method(spec: Spec) -> Method:
    """The method of a Spec, with its options checked by their owner."""
    part = specs.METHODS.load(spec.method.name)
    method: Method = part.Method(checked(part.Options, spec.method.options, path="method"))
    return method
