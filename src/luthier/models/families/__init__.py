"""Where each kind of transformers model keeps its blocks, linears, embedding and head. One file per family.

A family is a module with ``MODEL_TYPES`` (the ``model_type`` of configs it reads) and functions that take the network:

    blocks(network) -> nn.ModuleList             the layers that repeat
    linears(block) -> {relative name: module}    the linears of one block, seen through slots
    groups(block) -> [(name, ...), ...]          which of them read the same input
    embedding(network), head(network)            token id -> vector, vector -> token scores
    context(config) -> int                       longest row the network reads exactly
    check(config) -> None                        ModelError where a config asks for what the family does not do
    states(network, tokens_T, positions_T, sight) -> states_TD

``decoder`` is here. Its neighbours-to-be: ``encoder`` (states without a causal rule of sight, a head on one position) and ``vision``
(a processor beside the renderer, states that begin from patches). Each is one new file.
"""

from __future__ import annotations

from types import ModuleType

from luthier.core.errors import ModelError
from luthier.core.registry import Folder

FAMILIES = Folder("luthier.models.families", "family")


def model_types() -> list[str]:
    """Every ``model_type`` some family reads, sorted."""
    return sorted(kind for name in FAMILIES.names() for kind in FAMILIES.load(name).MODEL_TYPES)


def family_of(model_type: str, *, where: str = "") -> ModuleType:
    """The family that reads this ``model_type``.

    Raises:
        ModelError: none does; the message lists what can be read.
    """
    for name in FAMILIES.names():
        family = FAMILIES.load(name)
        if model_type in family.MODEL_TYPES:
            return family
    raise ModelError(
        f"A model of type {model_type!r} is not one Luthier tunes yet.",
        where=where,
        remedy=f"It reads: {', '.join(model_types())}.",
        code="model_type",
    )
