"""Do base, method, objective and packing of a Spec go together? Answered by comparing what each gives and wants (``core/fit.py``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from luthier.core.fit import Offer, check
from luthier.core.registry import Folder
from luthier.core.spec import Part, Spec, checked
from luthier.jobs import specs
from luthier.models.model import Model


def check_fit(spec: Spec, model: Model) -> None:
    """Refuse a combination that cannot work, before anything is spent.

    Raises:
        SpecError: says what is wanted and not given, and the nearest combination that works.
    """
    chosen = [base_offer(model), packing_offer(model.packing), method_offer(spec.method), objective_offer(spec.objective)]
    others = {
        "model.dtype": [packing_offer("")],
        "method": list(_every(specs.METHODS, method_offer)),
        "objective": list(_every(specs.OBJECTIVES, objective_offer)),
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


def objective_offer(part: Part) -> Offer:
    """What an objective can and needs, with its options."""
    module = specs.OBJECTIVES.load(part.name)
    objective: Any = module.Objective(checked(module.Options, part.options, path="objective"))
    asks_base = "reference" in objective.beside or ("teacher" in objective.beside and not objective.teacher)
    wants = objective.needs | (frozenset({"reference"}) if asks_base else frozenset())
    return Offer("objective", part.name, objective.supports, wants)


def _every(folder: Folder, offer: Any) -> Iterator[Offer]:
    for name in folder.names():
        module = folder.load(name)
        if all(not field.is_required() for field in module.Options.model_fields.values()):
            yield offer(Part(name=name))
