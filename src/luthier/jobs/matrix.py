"""Which method goes with which family and packing, and what it can do: read from what the parts say of themselves."""

from __future__ import annotations

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
"""Words of ``methods/__init__.py`` by what their row is called."""

BY_BASE = frozenset({"biases", "plain-linears"})
"""Wishes that some bases of a family grant and others do not."""


def columns() -> list[str]:
    """Headings: what is asked, and the methods."""
    return ["", *specs.METHODS.names()]


def rows() -> list[dict[str, str]]:
    """A row for each family with dense weights, one for packed ones, one for each ability; a cell is yes, no, or the condition.

    A method is asked with its usual settings.
    """
    kinds: dict[str, Any] = {name: specs.METHODS.load(name).Method for name in specs.METHODS.names()}
    families = {name: FAMILIES.load(name).GIVES for name in FAMILIES.names()}
    on = [{"": name} | {method: _on(kind.needs, gives) for method, kind in kinds.items()} for name, gives in families.items()]
    words = {"packed": "int8, nf4", **ABILITIES}
    can = [
        {"": told} | {method: "yes" if word in kind.supports else "no" for method, kind in kinds.items()} for word, told in words.items()
    ]
    return [*on, *can]


def page() -> str:
    """The same for people, as Markdown."""
    lines = ["| " + " | ".join(columns()) + " |", "|---" * len(columns()) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row.values()) + " |" for row in rows())])


def _on(wishes: frozenset[str], gives: frozenset[str]) -> str:
    """Whether a family grants them, or on what condition. A head is put on states."""
    left = wishes - gives
    if left & MEANS.keys() - BY_BASE - {"head"} or ("head" in left and "states" not in gives):
        return "no"
    said = {"biases": "with biases", "plain-linears": "plain linears", "head": "with a head"}
    return ", ".join(said[word] for word in sorted(left)) or "yes"
