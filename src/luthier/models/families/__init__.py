"""Where each kind of transformers model keeps its blocks, linears, embedding and head. One file per family.

A family is a module with ``MODEL_TYPES`` (the ``model_type`` of configs it reads) and functions that take the network:

    GIVES                                        words of ``core/fit.py``: what methods and objectives may ask of it
    APART                                        whether rows share nothing, because a state also depends on what stands behind it
    ATTENTION                                    the attention it is loaded with
    auto(config, names) -> class                 transformers' auto class that reads a checkpoint with the head it has
    SPARE                                        parts of names of weights that may be left unread, which is told
    blocks(network) -> nn.ModuleList             the layers that repeat
    linears(block) -> {relative name: module}    the linears of one block, seen through slots
    groups(block) -> [(name, ...), ...]          which of them read the same input
    embedding(network), head(network)            token id -> vector, vector -> token scores
    context(config) -> int                       longest row the network reads exactly
    check(config) -> None                        ModelError where a config asks for what the family does not do
    states(network, tokens_T, positions_T, sight) -> states_TD     and media, where rows have pictures
                                                                   and lead_VD, laid before the tokens (``models/lead.py``)

A family that writes beside a source, which the service does not serve, also has

    write_beside(network, prompts, media) -> rows that go on writing (``families/_two_stacks.py``)

What is learned by a head on whole rows also asks for

    summary(network, states_ND) -> [N, D]        what a head reads of the states at the rows' first tokens
    own_head(network) -> (linear, meaning)       the checkpoint's own, or None
    publish(network, linear, labels, several)    put another into its place

Each is one file.
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
