"""Write docs/conformance.md: the service against OpenAI's specification, endpoint by endpoint, field by field.

    python scripts/conformance.py [SPECIFICATION]     default: $LUTHIER_SHARED/data/openai-openapi/openapi.yaml

Fields of requests and answers are compared by name, as dotted paths (``choices[].message.content``), between the specification and the
document this service shows of itself. That real answers fit is the business of ``tests/server``, where each one is held against it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "conformance.md"
RESOURCES = ("files", "uploads", "fine_tuning", "models", "chat/completions", "completions", "embeddings", "batches")
"""First parts of the paths that are compared."""
NOT_HERE: dict[str, str] = {}
"""Why an endpoint of the specification is not here, by path."""
DEEPEST = 4
"""Levels of fields that are compared."""

Schema = dict[str, Any]


def default_file() -> Path:
    """The specification beside the repository."""
    return Path(os.environ.get("LUTHIER_SHARED") or ROOT.parent / "shared") / "data" / "openai-openapi" / "openapi.yaml"


def shape(path: str) -> str:
    """A path without the names of its parameters and without /v1."""
    return re.sub(r"\{[^}]*\}", "{}", path.removeprefix("/v1"))


@dataclass(frozen=True)
class Document:
    """An OpenAPI document: its operations, and schemas in which every reference is followed."""

    content: Schema

    @cached_property
    def operations(self) -> dict[tuple[str, str], Schema]:
        """By method and shape of the path."""
        return {
            (method.upper(), shape(path)): operation
            for path, methods in self.content["paths"].items()
            for method, operation in methods.items()
            if method in ("get", "post", "delete")
        }

    def schema(self, content: Schema | None) -> Schema | None:
        """That of the first media type that has one: JSON, or a form."""
        for kind in ("application/json", "multipart/form-data"):
            if content and kind in content:
                found: Schema = content[kind].get("schema", {})
                return found
        return None

    def request(self, operation: Schema) -> Schema | None:
        """The schema of the body."""
        return self.schema(operation.get("requestBody", {}).get("content"))

    def answer(self, operation: Schema) -> Schema | None:
        """The schema of the answer when all is well."""
        return self.schema(operation["responses"]["200"].get("content"))

    def resolve(self, schema: Schema) -> Schema:
        """The schema behind a reference."""
        while "$ref" in schema:
            found: Any = self.content
            for part in schema["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            schema = found
        return schema

    def fields(self, schema: Schema | None) -> dict[str, Schema]:
        """All fields by their dotted path; alternatives are laid over each other."""
        return dict(self._fields(schema or {}, "", 0))

    def _fields(self, schema: Schema, place: str, depth: int) -> Iterator[tuple[str, Schema]]:
        schema = self.resolve(schema)
        for part in (*schema.get("allOf", ()), *schema.get("anyOf", ()), *schema.get("oneOf", ())):
            yield from self._fields(part, place, depth)
        if "items" in schema:
            yield from self._fields(schema["items"], f"{place.removesuffix('.')}[]." if place else "[].", depth)
        if depth >= DEEPEST:
            return
        for name, inner in schema.get("properties", {}).items():
            marks = {"required": name in schema.get("required", ()), "effect": inner.get("x-luthier-effect", "")}
            yield f"{place}{name}", marks
            yield from self._fields(inner, f"{place}{name}.", depth + 1)

    def parameters(self, operation: Schema) -> set[str]:
        """Names in the query."""
        return {p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"}


@dataclass
class Comparison:
    """One endpoint. Fields of the specification that are here, of those without effect here, and that are not; and ours beyond it."""

    method: str
    path: str
    here: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    not_shown: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    query: list[str] = field(default_factory=list)
    no_query: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def compare(theirs: Document, ours: Document, key: tuple[str, str]) -> Comparison:
    """One endpoint that both have."""
    method, path = key
    their, our = theirs.operations[key], ours.operations[key]
    found = Comparison(method, path)
    asked, taken = theirs.fields(theirs.request(their)), ours.fields(ours.request(our))
    found.idle = _outermost(name for name in asked if name in taken and taken[name]["effect"] == "none")
    below = tuple(f"{name}{mark}" for name in found.idle for mark in (".", "[]"))
    found.here = [name for name in asked if name in taken and name not in found.idle and not name.startswith(below)]
    found.missing = _outermost(name for name in asked if name not in taken and not name.startswith(below))
    found.beyond = _outermost(name for name in taken if name not in asked)
    said, shown = theirs.fields(theirs.answer(their)), ours.fields(ours.answer(our))
    found.shown = [name for name in said if name in shown]
    found.not_shown = _outermost(name for name in said if name not in shown)
    found.added = _outermost(name for name in shown if name not in said)
    found.broken = [name for name in found.not_shown if said[name]["required"] and "." not in name and "[" not in name]
    found.query = sorted(theirs.parameters(their) & ours.parameters(our) | ({"metadata"} & theirs.parameters(their)))
    found.no_query = sorted(theirs.parameters(their) - set(found.query))
    return found


def _outermost(names: Iterable[str]) -> list[str]:
    """Without what lies inside of another one."""
    kept: list[str] = []
    for name in names:
        if not any(name.startswith((f"{outer}.", f"{outer}[]")) for outer in kept):
            kept.append(name)
    return kept


def page(theirs: Document, ours: Document) -> str:
    """The whole page."""
    compared = [key for key in theirs.operations if key[1].removeprefix("/").startswith(RESOURCES)]
    both = [compare(theirs, ours, key) for key in compared if key in ours.operations]
    absent = [key for key in compared if key not in ours.operations]
    beyond = [key for key in ours.operations if key not in theirs.operations]
    lines = [HEAD.format(version=theirs.content["info"]["version"], both=len(both), all=len(compared))]
    lines += ["| | endpoint | request fields | without effect | not known | answer fields | not shown |", "|---|---|---|---|---|---|---|"]
    lines += [_row(one) for one in both]
    if absent:
        lines += ["", "Not here: " + ", ".join(f"`{m} {p}` ({NOT_HERE.get(p, 'not yet')})" for m, p in absent) + "."]
    lines += ["", "Beyond the specification: " + ", ".join(f"`{m} {p}`" for m, p in beyond) + ".", ""]
    for one in both:
        lines += _section(one)
    return "\n".join(lines).rstrip() + "\n"


HEAD = """# Conformance

Generated by `python scripts/conformance.py` from OpenAI's specification {version} and the document this service shows of itself
(`/openapi.json`); a test keeps it up to date. {both} of the {all} endpoints of these resources are here. Names are dotted paths, to a
depth of four; alternatives of a field are laid over each other. That every answer fits its schema is tested with the real client
(`tests/server`). What is not known is not an error: it is listed in `luthier.ignored` of the answer, and so is what has no effect.

Where real answers leave the schema on purpose: `status` of a job may be `paused`, which the specification's own example shows and its
list of states leaves out; a file's `purpose` may be `evals`, which can be sent but is missing among those shown; messages of a stored
completion have the role they were sent with; a grader of type `multi` has its `graders` by name, as OpenAI's guide has them (a list and a
single one are taken, too); the first log-probability of an echoed prompt is null; embeddings are base64 where the
request says so, which the `openai` client does by itself.
"""


def _row(one: Comparison) -> str:
    counts = (len(one.here), len(one.idle), len(one.missing), len(one.shown), len(one.not_shown))
    return f"| {one.method} | `{one.path}` | " + " | ".join(str(count or "") for count in counts) + " |"


def _section(one: Comparison) -> list[str]:
    kinds = (
        ("query", one.query),
        ("query, not known", one.no_query),
        ("request", one.here),
        ("request, without effect", one.idle),
        ("request, not known", one.missing),
        ("request, beyond", one.beyond),
        ("answer", one.shown),
        ("answer, not shown", one.not_shown),
        ("answer, beyond", one.added),
    )
    said = [f"* **{kind}:** " + ", ".join(f"`{name}`" for name in names) for kind, names in kinds if names]
    return [f"## {one.method} {one.path}", "", *said, ""]


def our_document() -> Document:
    """The document of this service; no database is opened."""
    from fastapi import FastAPI

    from luthier.server import document
    from luthier.server.endpoints import ENDPOINTS

    app = FastAPI(title="Luthier")
    for name in ENDPOINTS.names():
        app.include_router(ENDPOINTS.load(name).router)
    return Document(document.of(app))


def their_document(file: Path) -> Document:
    """OpenAI's."""
    with open(file, encoding="utf-8") as source:
        return Document(yaml.load(source, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


if __name__ == "__main__":
    PAGE.write_text(page(their_document(Path(sys.argv[1]) if len(sys.argv) > 1 else default_file()), our_document()), encoding="utf-8")
