"""Do base, method, objective and packing of a Spec go together? Answered by comparing what each gives and wants (``core/fit.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from luthier.core.fit import Offer, check
from luthier.core.registry import Folder
from luthier.core.sequence import Rows
from luthier.core.spec import Part, Spec, checked
from luthier.data.said import Answers
from luthier.jobs import specs
from luthier.models.model import Model

LOOKED_AT = 100
"""Rows, evenly spread, that tell what all of them are like."""


def check_fit(spec: Spec, model: Model, rows: Rows | None = None) -> None:
    """Refuse a combination that cannot work, before anything is spent.

    Args:
        rows: what is learned, where it is known yet.

    Raises:
        SpecError: says what is wanted and not given, and the nearest combination that works.
    """
    reading = rows is not None
    chosen = [base_offer(model), packing_offer(model.packing), method_offer(spec.method), objective_offer(spec.objective, reading=reading)]
    if rows is not None:
        chosen.append(rows_offer(spec, rows, tags="tags" in chosen[-1].wants))
    usual = Spec()
    others = {
        "model.dtype": [packing_offer("")],
        "method": list(_every(specs.METHODS, method_offer, usual=usual.method.name)),
        "objective": list(_every(specs.OBJECTIVES, partial(objective_offer, reading=reading), usual=usual.objective.name)),
    }
    check(chosen, others)


def base_offer(model: Model) -> Offer:
    """What the base has."""
    gives = set(model.family.GIVES)
    if any(isinstance(getattr(module, "bias", None), Tensor) for module in model.network.modules()):
        gives.add("biases")
    if all(type(linear) is nn.Linear for linear in model.linears().values()):
        gives.add("plain-linears")
    return Offer("model", Path(model.name).name, frozenset(gives))


def packing_offer(packing: str) -> Offer:
    """Packed weights cannot move, so they want a method that leaves them alone."""
    return Offer("model.dtype", packing or "auto", wants=frozenset({"packed"} if packing else ()))


def method_offer(part: Part) -> Offer:
    """What a method can and needs, with its options."""
    module = specs.METHODS.load(part.name)
    method: Any = module.Method(checked(module.Options, part.options, path="method"))
    gives = frozenset(method.supports)
    if gives & {"swap", "begins-as-base"}:
        gives |= {"reference"}
    return Offer("method", part.name, gives, frozenset(method.needs))


def objective_offer(part: Part, *, reading: bool = False) -> Offer:
    """What an objective can and needs, with its options; of the rows too where they are `reading`."""
    module = specs.OBJECTIVES.load(part.name)
    objective: Any = module.Objective(checked(module.Options, part.options, path="objective"))
    asks_base = "reference" in objective.beside or ("teacher" in objective.beside and not objective.teacher)
    wants = objective.needs | (frozenset({"reference"}) if asks_base else frozenset())
    return Offer("objective", part.name, objective.supports, wants | (getattr(objective, "reads", frozenset()) if reading else frozenset()))


def rows_offer(spec: Spec, rows: Rows, *, tags: bool) -> Offer:
    """What the rows tell of their answers.

    Args:
        tags: look for words and tags, too, which wants the file read again.
    """
    seen = [rows[i * len(rows) // min(len(rows), LOOKED_AT)] for i in range(min(len(rows), LOOKED_AT))]
    sides = [{sequence.part for sequence in row.sequences} & {"chosen", "rejected"} for row in seen]
    gives = {word for word, least in (("judged", 1), ("pairs", 2)) if all(len(both) >= least for both in sides)}
    if tags and all(answers.of(row.source).words for answers in [Answers(spec.data.format)] for row in seen):
        gives.add("tags")
    return Offer("data", Path(spec.data.file).name, frozenset(gives))


def _every(folder: Folder, offer: Any, *, usual: str) -> Iterator[Offer]:
    for name in sorted(folder.names(), key=lambda name: (name != usual, name)):
        module = folder.load(name)
        if all(not field.is_required() for field in module.Options.model_fields.values()):
            yield offer(Part(name=name))
