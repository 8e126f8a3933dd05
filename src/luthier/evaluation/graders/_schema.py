"""The part of JSON Schema (2020-12) that graders check. A keyword that is not checked is refused beforehand, never ignored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luthier.core.errors import SpecError

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "integer": lambda v: isinstance(v, int | float) and not isinstance(v, bool) and v == int(v),
}
_NUMBER, _STRING, _ARRAY, _OBJECT = (_TYPES[name] for name in ("number", "string", "array", "object"))

_RULES: dict[str, Callable[[Any, Any], bool]] = {
    "type": lambda v, wanted: any(_TYPES[name](v) for name in ([wanted] if isinstance(wanted, str) else wanted)),
    "enum": lambda v, wanted: any(_same(v, one) for one in wanted),
    "const": lambda v, wanted: _same(v, wanted),
    "anyOf": lambda v, wanted: any(fits(v, one) for one in wanted),
    "minimum": lambda v, least: not _NUMBER(v) or v >= least,
    "maximum": lambda v, most: not _NUMBER(v) or v <= most,
    "minLength": lambda v, least: not _STRING(v) or len(v) >= least,
    "maxLength": lambda v, most: not _STRING(v) or len(v) <= most,
    "minItems": lambda v, least: not _ARRAY(v) or len(v) >= least,
    "maxItems": lambda v, most: not _ARRAY(v) or len(v) <= most,
    "items": lambda v, one: not _ARRAY(v) or all(fits(each, one) for each in v),
    "required": lambda v, names: not _OBJECT(v) or all(name in v for name in names),
    "properties": lambda v, several: not _OBJECT(v) or all(fits(v[name], one) for name, one in several.items() if name in v),
}
_SAYS_NOTHING = frozenset({"title", "description", "$schema", "default", "examples", "additionalProperties", "strict", "name"})


def known(schema: Any, path: str = "json_schema") -> None:
    """Refuse what is not checked, anywhere in the schema.

    Raises:
        SpecError: names the keyword.
    """
    if isinstance(schema, bool):
        return
    strange = sorted(schema.keys() - _RULES.keys() - _SAYS_NOTHING) if isinstance(schema, dict) else ["(no object)"]
    types = schema.get("type", []) if isinstance(schema, dict) else []
    strange += [f"type {name}" for name in ([types] if isinstance(types, str) else types) if name not in _TYPES]
    if strange:
        raise SpecError(f"{path}: {strange[0]} is not checked.", remedy=f"Known: {', '.join(sorted(_RULES))}.", code="bad_schema")
    for name, one in schema.get("properties", {}).items():
        known(one, f"{path}.properties.{name}")
    for place, one in enumerate(schema.get("anyOf", [])):
        known(one, f"{path}.anyOf.{place}")
    if "items" in schema:
        known(schema["items"], f"{path}.items")


def fits(value: Any, schema: Any) -> bool:
    """Whether a value has the shape of a schema that is `known`."""
    if isinstance(schema, bool):
        return schema
    if not all(rule(value, schema[name]) for name, rule in _RULES.items() if name in schema):
        return False
    more = schema.get("additionalProperties", True)
    if not _OBJECT(value) or more is True:
        return True
    return all(fits(one, more) for name, one in value.items() if name not in schema.get("properties", {}))


def _same(left: Any, right: Any) -> bool:
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)
