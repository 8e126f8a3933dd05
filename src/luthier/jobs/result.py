"""A finished run in the hand: its verdict, its files, and somebody to talk to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import from_numpy

from luthier.core.errors import NotFound, SpecError
from luthier.core.example import Message
from luthier.core.spec import Spec, checked
from luthier.engine.score import outputs
from luthier.engine.session import Method
from luthier.evaluation import certificate
from luthier.evaluation.items import read_items
from luthier.inference.chat import Conversation, Settings
from luthier.inference.sides import Side, Sides
from luthier.jobs import heads, specs
from luthier.models.load import load as load_model
from luthier.models.model import Model
from luthier.objectives._answers import asked
from luthier.store.runs import RunFolder, read_json


@dataclass(frozen=True)
class Prediction:
    """What a head says of one text.

    Attributes:
        said: a label, a list of labels, or a number. sure: probability of each label, calibrated; empty for numbers.
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

    def predict(self, texts: list[str], *, system: str = "") -> list[Prediction]:
        """What the head says of each text, as the answer to a question.

        Args:
            system: instructions before each text, where the rows had some.

        Raises:
            SpecError: the run has no head: its objective writes answers.
        """
        predictor = self.model.predictor
        if predictor is None:
            raise SpecError("This run has no head to ask.", remedy="Ask it with chat, or tune with objective predict.", code="no_head")
        before = [Message("system", system)] if system else []
        prompts = [self.model.renderer.prompt([*before, Message("user", text)]) for text in texts]
        said = outputs(self.model, [asked(prompt, self.model.renderer) for prompt in prompts])
        return [Prediction(predictor.read(out)[0], predictor.sureness(out)) for out in map(from_numpy, said)]

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
