"""A job as a client asks for it, checked: ranges of the wire here, everything of a Spec by the Spec."""

from __future__ import annotations

import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from luthier.core.errors import LuthierError, SpecError, did_you_mean
from luthier.core.files import fingerprint
from luthier.core.spec import Spec
from luthier.jobs import specs
from luthier.jobs.asked_grades import graded

Auto = Literal["auto"]
Name = Annotated[str, Field(min_length=1, max_length=256)]


PLACES = (("data", "file"), ("data", "valid"), ("model", "name"))
"""Settings of a Spec that would name a place on this machine; ``data.valid`` may be a share."""


Wanted = Literal["supervised", "dpo", "reinforcement"]

EVERYWHERE = ("n_epochs", "batch_size", "learning_rate_multiplier")
OWN: dict[Wanted, tuple[str, ...]] = {"supervised": (), "dpo": ("beta",), "reinforcement": ("compute_multiplier", "eval_interval")}
"""Names of hyperparameters: of every way, and those one way has beside."""


class _Asked(BaseModel):
    """What is not known here is not looked at: the wire tells the client what it ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Numbers(_Asked):
    """Hyperparameters as the wire has them; null is auto."""

    n_epochs: Auto | Annotated[int, Field(ge=1, le=50)] | None = None
    batch_size: Auto | Annotated[int, Field(ge=1, le=256)] | None = None
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    beta: Auto | Annotated[float, Field(gt=0, le=2)] | None = None
    compute_multiplier: Auto | Annotated[float, Field(ge=1e-5, le=10)] | None = None
    eval_interval: Auto | Annotated[int, Field(ge=1)] | None = None

    def said(self) -> dict[str, Any]:
        """Those that were given a number."""
        return {name: value for name, value in self if value not in ("auto", None)}


class Way(_Asked):
    """What is learned from the examples: the object under the method's name."""

    hyperparameters: Numbers = Numbers()


class Graded(Way):
    """What is learned from grades, and who grades."""

    grader: dict[str, Any]


class AskedMethod(_Asked):
    """``method`` of the wire."""

    type: Wanted
    supervised: Way | None = None
    dpo: Way | None = None
    reinforcement: Graded | None = None


class NewJob(_Asked):
    """A request to make a job.

    Attributes:
        luthier: any section of a Spec but files and names: ``{"method": {"name": "lora", "rank": 8}, "quality": "draft"}``.
        ignored: names of fields the client sent and nobody knows.
        retry: how often the client has sent it before (``x-stainless-retry-count``). idempotency_key: the header, where a client sends it.
    """

    model: Name
    training_file: Name
    validation_file: Name | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    metadata: dict[str, str] | None = None
    method: AskedMethod | None = None
    hyperparameters: Numbers | None = None
    integrations: list[dict[str, Any]] | None = None
    luthier: dict[str, Any] | None = None
    ignored: list[str] = []
    retry: int = 0
    idempotency_key: str = ""

    @classmethod
    def read(cls, body: dict[str, Any], **beside: Any) -> NewJob:
        """From the body of a request.

        Args:
            beside: `ignored`, `retry`, `idempotency_key`, which no body can say.

        Raises:
            SpecError: a value does not do; `where` is the name of the field on the wire.
        """
        own = {"ignored", "retry", "idempotency_key"}
        try:
            return cls.model_validate({key: value for key, value in body.items() if key not in own} | beside)
        except ValidationError as error:
            first = error.errors()[0]
            field = _field(body, first["loc"])
            messages = "; ".join(dict.fromkeys(e["msg"] for e in error.errors() if _field(body, e["loc"]) == field))
            what = f"{field} is missing." if first["type"] == "missing" else f"{field} = {first['input']!r} does not do: {messages}."
            raise SpecError(what, where=field, remedy="Change it, or leave it out where it may be.", code="bad_value") from error

    @property
    def way(self) -> Wanted:
        """What is learned."""
        return self.method.type if self.method else "supervised"

    @property
    def numbers_shown(self) -> dict[str, Any]:
        """The hyperparameters this way of learning knows, as asked; the rest is auto."""
        return {name: getattr(self.numbers, name) or "auto" for name in [*EVERYWHERE, *OWN[self.way]]}

    @property
    def numbers(self) -> Numbers:
        """The hyperparameters, wherever they were said.

        Raises:
            SpecError: in both places.
        """
        way = getattr(self.method, self.way) if self.method else None
        under = way.hyperparameters if way else Numbers()
        if self.hyperparameters is not None and self.hyperparameters.said() and under.said():
            what = "Hyperparameters are said twice, at the top and under method."
            raise SpecError(what, where="hyperparameters", remedy="Leave those at the top out.", code="said_twice")
        return under if under.said() else self.hyperparameters or under

    def digest(self, actor: str) -> str:
        """Hash of who asks and what: equal for a request that is sent again."""
        return fingerprint([actor, self.model_dump(mode="json", exclude={"retry", "idempotency_key"})])


def spec_of(new: NewJob) -> Spec:
    """The whole Spec of a request, but for the places of its files.

    Raises:
        SpecError: a setting that is not there, out of its range, said twice, or not the client's to say.
    """
    sections = _sections(new)
    train = _train(sections.pop("train", {}), new)
    if new.way == "dpo":
        sections["objective"] = _preference(new.numbers, sections.get("objective"))
    elif new.way == "reinforcement":
        told = new.method.reinforcement if new.method else None
        sections["objective"] = graded(told.grader if told else None, new.numbers.said(), sections.get("objective"))
    try:
        return specs.gather(train=train, **sections)
    except LuthierError as error:
        raise SpecError(error.what, where="luthier", remedy=error.remedy, code=error.code) from error


def _sections(new: NewJob) -> dict[str, Any]:
    """The sections of a Spec that a request may say: none that names a place on this machine."""
    sections = dict(new.luthier or {})
    for key, value in sections.items():
        if key not in Spec.model_fields:
            raise SpecError(
                f"There is no setting luthier.{key}.", where="luthier", remedy=did_you_mean(key, Spec.model_fields), code="unknown_key"
            )
        if not isinstance(value, (str,) if key == "quality" else (dict, str) if key in ("method", "objective") else dict):
            raise SpecError(f"luthier.{key} must be an object.", where=f"luthier.{key}", remedy="As in a spec.yaml.", code="bad_value")
    for section, key in PLACES:
        said = sections.get(section, {}).get(key)
        if said is not None and not (key == "valid" and isinstance(said, float | int)):
            where, remedy = f"luthier.{section}.{key}", "Use the fields model, training_file and validation_file."
            raise SpecError(f"{where} would name a place on the server.", where=where, remedy=remedy, code="not_for_wire")
    for key in specs.places(sections.get("objective")):
        where = f"luthier.objective.{key}"
        raise SpecError(f"{where} would name a place on the server.", where=where, remedy="Leave it out.", code="not_for_wire")
    return sections


def _train(said: dict[str, Any], new: NewJob) -> dict[str, Any]:
    """The numbers of the wire, and those of the `luthier` object beside them."""
    numbers = new.numbers.said()
    wire = {"epochs": numbers.get("n_epochs"), "rows_per_step": numbers.get("batch_size"), "seed": new.seed}
    wire["validate_every"] = numbers.get("eval_interval") if new.way == "reinforcement" else None
    both = {**wire, "learning_rate": numbers.get("learning_rate_multiplier")}
    twice = next((name for name, value in both.items() if value is not None and name in said), None)
    if twice is not None:
        where = f"luthier.train.{twice}"
        raise SpecError(f"{where} and a field of the wire say the same thing.", where=where, remedy="Leave one out.", code="said_twice")
    return {"seed": secrets.randbelow(2**31)} | {name: value for name, value in wire.items() if value is not None} | said


def _preference(numbers: Numbers, said: Any) -> dict[str, Any]:
    """The objective behind ``method.type: dpo``."""
    if "dpo" not in specs.OBJECTIVES.names():
        what = "This installation cannot learn from preferences: it has no objective dpo."
        raise SpecError(what, where="method.type", remedy="Take supervised, or a newer version.", code="bad_value")
    own = {"name": said} if isinstance(said, str) else dict(said or {})
    return {"name": "dpo", **({"beta": numbers.beta} if numbers.said().get("beta") else {}), **own}


def _field(body: Any, loc: tuple[int | str, ...]) -> str:
    """The name of a field as the client wrote it; pydantic adds which branch of a union it tried."""
    names = []
    for place in loc:
        names.append(str(place))
        inner = body.get(place) if isinstance(body, dict) else body[int(place)]
        if not isinstance(inner, dict | list):
            break
        body = inner
    return ".".join(names)
