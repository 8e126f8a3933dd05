"""Which method goes with which family and packing, and what it can do: read from what the parts say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from luthier.core.fit import MEANS
from luthier.jobs import specs
from luthier.models.families import FAMILIES

ABILITIES = {
    "merge": "merge",
    "swap": "swap",
    "batch": "one batch",
    "strength": "strength",
    "combine": "combine",
    "fused": "fused",
    "trees": "trees",
    "peft": "PEFT files",
}
"""Words of ``methods/__init__.py`` by the heading of their column."""

BY_BASE = frozenset({"biases", "plain-linears"})
"""Wishes that some bases of a family grant and others do not."""


def columns() -> list[str]:
    """Headings: the method, the families dense, packed bases, abilities."""
    return ["method", *FAMILIES.names(), "int8, nf4", *ABILITIES.values()]


def rows() -> list[dict[str, str]]:
    """A row for each method, with its usual settings; a cell is yes, no, or the condition."""
    return [dict(zip(columns(), _cells(name), strict=True)) for name in specs.METHODS.names()]


def page() -> str:
    """The same for people, as Markdown."""
    lines = ["| " + " | ".join(columns()) + " |", "|---" * len(columns()) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row.values()) + " |" for row in rows())])


def _cells(name: str) -> Iterator[str]:
    kind: Any = specs.METHODS.load(name).Method
    yield name
    for family in FAMILIES.names():
        yield _on(kind.needs - FAMILIES.load(family).GIVES)
    yield "yes" if "packed" in kind.supports else "no"
    for word in ABILITIES:
        yield "yes" if word in kind.supports else "no"


def _on(wishes: frozenset[str]) -> str:
    """What is left to wish for on a family."""
    if wishes & MEANS.keys() - BY_BASE - {"head"}:
        return "no"
    said = {"biases": "with biases", "plain-linears": "plain linears", "head": "with a head"}
    return ", ".join(said[word] for word in sorted(wishes)) or "yes"
