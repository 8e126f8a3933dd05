"""The Spec: everything that decides a run, as plain, strict, serialisable values.

It is the only source of names, defaults, help and checks: YAML, ``--set``, the Python call and later the wire all end here. Fields of a
particular method or objective live with their owner (``methods/lora.py``); `Part` carries them by name until that owner checks them.
``"auto"`` is a value a run derives and prints; nothing here uses None for "sometimes".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from luthier.core.errors import SpecError, did_you_mean
from luthier.core.files import fingerprint

Auto = Literal["auto"]
M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """Frozen values; an unknown key is an error; every field carries its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())


class Part(BaseModel):
    """A part chosen by name, with the options its owner declares: ``{"name": "lora", "rank": 16}``. ``peft:vera`` is short for the part
    ``peft`` with its option ``kind`` vera."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _short(cls, content: Any) -> Any:
        name = content.get("name") if isinstance(content, dict) else None
        if not isinstance(name, str) or ":" not in name:
            return content
        part, _, kind = name.partition(":")
        return {**content, "name": part, "kind": kind}

    @property
    def options(self) -> dict[str, Any]:
        """What was said beside the name."""
        return dict(self.model_extra or {})


class ModelSpec(Strict):
    """The base model."""

    name: str = "luthier-mini"
    """Name from the catalog, a local folder in the Hugging Face layout, or a Hugging Face name."""
    dtype: Literal["auto", "bfloat16", "float32", "nf4", "int8"] = "auto"
    """Number format of frozen weights; auto takes bfloat16 where the processor computes in it; nf4 and int8 pack them in 4 or 8 bits."""
    context: Annotated[int, Field(ge=8)] | Auto = "auto"
    """Longest row in tokens; auto is what the model was made for."""


class DataSpec(Strict):
    """The examples, and what is learned from them."""

    file: str = ""
    """The file of examples."""
    format: str = "auto"
    """Name of a reader; auto recognises it from the rows and says why."""
    learn: Literal["answers", "last_answer", "everything"] = "answers"
    """Which turns are learned. Per-message weights of the data multiply in."""
    too_long: Literal["refuse", "split", "drop", "cut_prompt"] = "refuse"
    """What to do with a row longer than the model reads. Nothing is ever cut unless named here."""
    valid: Annotated[float, Field(ge=0, le=0.5)] | str = 0.1
    """Share of rows held out (0 to 0.5), or a file of held-out rows."""
    group: str = ""
    """Field whose equal values must stay on one side of the split, e.g. a customer id."""
    allow_near_duplicates: bool = True
    """Near duplicates are warned of and kept; false makes them errors."""


class TrainSpec(Strict):
    """Numbers of the optimisation."""

    epochs: Annotated[float, Field(gt=0, le=1000)] | Auto = "auto"
    """Passes over the training rows; may be a fraction."""
    max_steps: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Stop after so many steps; auto means epochs decide."""
    rows_per_step: Annotated[int, Field(ge=1, le=65536)] | Auto = "auto"
    """Rows behind one optimiser step. How they are packed never changes the result."""
    learning_rate: Annotated[float, Field(gt=0, lt=10)] | Auto = "auto"
    """Highest learning rate of the schedule."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after warm-up."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the steps during which the learning rate rises from zero."""
    final_rate: float = Field(0.1, ge=0, le=1)
    """Learning rate at the end, as a share of the highest."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    """Decoupled weight decay of AdamW on matrices."""
    beta2: float = Field(0.999, gt=0, lt=1)
    """AdamW's memory of squared gradients."""
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm; longer gradients are scaled down to it."""
    shuffle: bool = True
    """New order of rows each epoch, from the seed; false keeps the order of the file."""
    group_prefixes: bool = False
    """Rows that begin alike meet in the same step more often: cheaper where there are many different prompts, less mixed."""
    tokens_per_pack: Annotated[int, Field(ge=8)] | Auto = "auto"
    """Tokens laid out at once; auto takes what memory allows. Never changes the result beyond rounding."""
    optimiser: Literal["auto", "adamw", "adamw8bit", "layerwise"] = "auto"
    """adamw8bit keeps moments in a byte each; layerwise does so and keeps no gradient; auto takes adamw if memory allows, else these."""
    recompute: bool | Auto = "auto"
    """Compute every block again in backward instead of keeping what it needs; auto does so where memory is short."""
    offload: bool | Auto = "auto"
    """Keep the states of recomputed blocks in main memory; auto does so on an accelerator where recomputing alone leaves too little."""
    compile: bool | Auto = "auto"
    """Compile blocks (torch.compile); auto does so on an accelerator where the run is long and it is faster. A CPU has its own kernels."""
    save_every: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Steps between checkpoints."""
    validate_every: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Steps between looks at the held-out loss."""
    patience: int = Field(3, ge=0)
    """Stop after so many looks without a better held-out loss; 0 never stops early."""
    processes: Annotated[int, Field(ge=1, le=64)] | Auto = "auto"
    """Processes on this machine that share every step; auto is one per accelerator, or one. Never changes the result beyond rounding."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Everything random follows from it."""


class EvaluateSpec(Strict):
    """How base and tuned are compared."""

    rows: int = Field(200, ge=0)
    """Held-out rows answered by generation; the loss always uses all. 0 skips generation."""
    max_tokens: Annotated[int, Field(ge=1)] | Auto = "auto"
    """Longest answer; auto is 1.5 x the longest expected answer plus 16."""
    metric: str = "auto"
    """The number the verdict is about; auto takes label accuracy when answers are labels, else chrF."""
    resamples: int = Field(2000, ge=100, le=100000)
    """Resamples of the paired bootstrap."""


class Spec(Strict):
    """Everything that decides a run."""

    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    method: Part = Part(name="lora")
    """Which weights move."""
    objective: Part = Part(name="sft")
    """Which number falls."""
    train: TrainSpec = TrainSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    quality: Literal["draft", "good", "best"] = "good"
    """One dial from which every "auto" is derived: draft is a fast look, best takes several times as long."""

    @classmethod
    def parse(cls, content: dict[str, Any], *, where: str = "") -> Spec:
        """Check plain data. Short forms: ``model: NAME``, ``data: FILE``, ``method: NAME``, ``objective: NAME``.

        Raises:
            SpecError: an unknown key (with the nearest known one) or a value out of range.
        """
        short = {"model": "name", "data": "file", "method": "name", "objective": "name"}
        content = {k: {short[k]: v} if k in short and isinstance(v, str) else v for k, v in content.items()}
        return checked(cls, content, where=where)

    def fingerprint(self) -> str:
        """Hash of every value, as hex: two runs with equal fingerprints were asked the same."""
        return fingerprint(self.model_dump(mode="json"))


def checked(kind: type[M], content: dict[str, Any], *, where: str = "", path: str = "") -> M:
    """Build `kind` from plain data, turning pydantic's complaint into one SpecError that names the key and the remedy.

    Args:
        path: dotted place of `content` in the Spec, e.g. ``method`` for a method's options.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        _explain(kind, error, where, path)


def _explain(kind: type[BaseModel], error: ValidationError, where: str, path: str) -> NoReturn:
    first = error.errors()[0]
    key = ".".join([*([path] if path else []), *_named(kind, first["loc"])])
    if first["type"] == "extra_forbidden":
        owner = kind
        for part in first["loc"][:-1]:
            annotation = owner.model_fields[str(part)].annotation
            owner = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else owner
        raise SpecError(
            f"There is no setting {key!r}.", where=where, remedy=did_you_mean(str(first["loc"][-1]), owner.model_fields), code="unknown_key"
        ) from error
    messages = "; ".join(dict.fromkeys(e["msg"] for e in error.errors() if e["loc"][:1] == first["loc"][:1]))
    raise SpecError(
        f"{key} = {first['input']!r} does not do: {messages}.",
        where=where,
        remedy="Change it, or leave it out for the default.",
        code="bad_value",
    ) from error


def _named(kind: type[BaseModel], places: tuple[int | str, ...]) -> list[str]:
    """The names of settings on the way to a value; pydantic adds which branch of a union it tried, which nobody wrote."""
    names: list[str] = []
    owner: Any = kind
    for place in map(str, places):
        if not (isinstance(owner, type) and issubclass(owner, BaseModel)):
            break
        names.append(place)
        owner = owner.model_fields[place].annotation if place in owner.model_fields else None
    return names
