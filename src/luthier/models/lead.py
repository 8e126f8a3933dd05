"""Lead: what a method lays before every row - learned vectors in the place of tokens (prompt tuning), or learned keys and values of
every layer (prefix tuning). Every node of a forest sees it, and the rows' own positions begin behind it.

    index    0 1 | 2 3 4 5 | 6 7 8       V = 2 tokens of lead, at the root of every tree
    token    v v | s s a a | b b b

A lead is hosted in a slot around the embedding, which it leaves as it is: that slot's active delta names whose lead is laid, so
swapping works as for every other method.

V tokens of lead, T of the forest, D width of a state, K key-value heads, W width of a head, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from luthier.models.onward import Onward
from luthier.models.sight import Led, Memory, Sight
from luthier.models.slot import Slot

if TYPE_CHECKING:
    from luthier.models.model import Model


@runtime_checkable
class Lead(Protocol):
    """A delta around the embedding that is laid before every row."""

    @property
    def count(self) -> int:
        """V."""
        ...

    def vectors(self, model: Model) -> Tensor | None:
        """``[V, D]`` in the place of embedded tokens; None where the lead is keys and values."""
        ...

    def memories(self, model: Model) -> Many[Memory]:
        """Keys and values of every layer, as rows see them."""
        ...


def lead_of(model: Model) -> Lead | None:
    """The lead that is laid now, if there is one."""
    if "embedding" not in model.family.GIVES:
        return None
    place: Any = model.network.get_input_embeddings()  # type: ignore[operator]
    current = place.current if isinstance(place, Slot) else None
    return current if isinstance(current, Lead) else None


def states(model: Model, lead: Lead, *, tokens_T: Tensor, positions_T: Tensor, sight: Any, **seen: Any) -> Tensor:
    """States ``[T, D]`` of a forest behind `lead`, differentiable in it; `seen` goes on to the family."""
    vectors_VD = lead.vectors(model) if isinstance(sight, Sight) else None
    if vectors_VD is None:
        positions_T, sight = behind(model, lead, positions_T, sight)
        return _states(model, tokens_T=tokens_T, positions_T=positions_T, sight=sight, **seen)
    own = torch.arange(lead.count, device=positions_T.device)
    positions = torch.cat([own, positions_T + lead.count])
    under = sight.under(lead.count)
    return _states(model, tokens_T=tokens_T, positions_T=positions, sight=under, lead_VD=vectors_VD, **seen)[lead.count :]


def behind(model: Model, lead: Lead, positions_T: Tensor, sight: Any) -> tuple[Tensor, Any]:
    """Positions and sight of tokens that see `lead` as keys and values."""
    return positions_T + lead.count, Led(sight, lead.memories(model))


def memories_of(model: Model, *, vectors_VD: Tensor | None = None, tokens_V: Tensor | None = None) -> list[Memory]:
    """Keys and values of every layer after V vectors, or tokens, at the beginning of a row. Without gradients."""
    given = tokens_V if vectors_VD is None else vectors_VD
    assert given is not None
    count, where = len(given), model.device
    onward = Onward(Sight(np.full(count, count), np.arange(count)))
    none = torch.zeros(0, dtype=torch.int64, device=where)
    with torch.no_grad():
        _states(
            model,
            tokens_T=none if tokens_V is None else tokens_V,
            positions_T=torch.arange(count, device=where),
            sight=onward,
            lead_VD=vectors_VD,
        )
    return onward.memories


def _states(model: Model, **given: Any) -> Tensor:
    found: Tensor = model.family.states(model.network, **given)
    return found


def leave_room(model: Model, count: int) -> None:
    """Rows may be as long as the network reads, less `count` tokens of lead."""
    model.context = min(model.context, model.family.context(model.config) - count)
