"""What requests and answers have in common.

Three ways a field of an answer can be absent, as in the specification:
    required, may be null    error: JobError | None
    left out when unknown    expires_at: int | None = maybe()
    ours                     luthier: Luthier | None = maybe()
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StringConstraints

T = TypeVar("T")

Int = StrictInt
Flag = StrictBool
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, StringConstraints(max_length=1 << 20)]
Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]

MetadataKey = Annotated[str, StringConstraints(max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
"""16 pairs, keys to 64 characters, values to 512."""


def _is_none(value: Any) -> bool:
    return value is None


def _never_null(schema: dict[str, Any]) -> None:
    """What is left out when unknown is never null, and has no default."""
    schema.pop("default", None)
    kinds = [kind for kind in schema.pop("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) == 1:
        schema.update(kinds[0])
    elif kinds:
        schema["anyOf"] = kinds


def maybe() -> Any:
    """A field of an answer that is left out when it is None."""
    return Field(default=None, exclude_if=_is_none, json_schema_extra=_never_null)


def _mark_idle(schema: dict[str, Any], kind: type[Any]) -> None:
    """Tell in the document which fields do nothing here."""
    for name in kind.without_effect & set(schema["properties"]):
        schema["properties"][name]["x-luthier-effect"] = "none"


class Asked(BaseModel):
    """A request. What the wire does not know is kept aside and told back, as `ignored`.

    `without_effect` names fields that the wire knows and that do nothing here.
    """

    model_config = ConfigDict(
        extra="allow", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), json_schema_extra=_mark_idle
    )
    without_effect: ClassVar[frozenset[str]] = frozenset()

    def ignored(self) -> list[str]:
        """Names of all fields that were said and change nothing, also inside of others, sorted."""
        return sorted(_ignored(self, ""))


def _ignored(value: Any, place: str) -> set[str]:
    if isinstance(value, list | tuple):
        return {name for inner in value for name in _ignored(inner, place)}
    if not isinstance(value, BaseModel):
        return set()
    names = {f"{place}{name}" for name in value.model_extra or {}}
    for name in value.model_fields_set & set(type(value).model_fields):
        said = getattr(value, name)
        if isinstance(value, Asked) and name in value.without_effect and said is not None:
            names.add(f"{place}{name}")
        else:
            names |= _ignored(said, f"{place}{name}.")
    return names


class Answer(BaseModel):
    """Something of an answer."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=(), populate_by_name=True)


class Luthier(Answer):
    """What this service says beyond the wire."""

    model_config = ConfigDict(extra="allow")
    ignored: list[str] | None = maybe()
    """Fields of the request that changed nothing."""


def ignored_by(asked: Asked) -> Luthier | None:
    """The `luthier` object of an answer that has nothing else to say."""
    names = asked.ignored()
    return Luthier(ignored=names) if names else None


class Listed(Answer, Generic[T]):
    """One page of a list. ``last_id`` is the cursor of the next; both ids are empty where the page is, as null is not allowed."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str
    last_id: str
    has_more: bool


def listed(items: list[T], has_more: bool) -> Listed[T]:
    """A page of `items`, which have ids."""
    ids = [str(getattr(item, "id", "")) for item in items] or [""]
    return Listed(data=items, first_id=ids[0], last_id=ids[-1], has_more=has_more)


def reply(answer: Answer, status: int = 200) -> Response:
    """The answer as JSON. Endpoints return this, so that FastAPI does not check once more what is typed already."""
    return Response(answer.model_dump_json(by_alias=True), status, media_type="application/json")
