"""Several adapters of one method become one, which is hosted beside them under a name of its own.

    sum              their numbers are added, each by its weight: as large as one of them. Exact for vectors; for products of matrices it
                     is the product of sums (PEFT's "linear"), near the sum where they were tuned from one start
    concatenation    side by side: exactly the weighted sum of what they change, and as large as all of them (PEFT's "cat"); prompts and
                     prefixes stand one behind the other

A linear that some of them leave alone is changed by the others only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from luthier.core.errors import ModelError
from luthier.models import slot
from luthier.models.model import Model

How = Literal["sum", "concatenation"]


@torch.no_grad()
def blend(model: Model, weights: Mapping[str, float], *, how: How, name: str) -> None:
    """Host the adapter `name`, made of those hosted under the names of `weights`; it does not answer by that.

    Raises:
        ModelError: one is not hosted here, they are of different kinds, or their kind or shapes do not combine this way.
    """
    places = slot.slots(model.network)
    for wanted in weights:
        if all(place.delta(wanted) is None for place in places.values()):
            raise ModelError(f"There is no adapter called {wanted!r} here.", remedy="Attach or load it first.", code="adapter")
    for path, place in places.items():
        parts = [(delta, weight) for wanted, weight in weights.items() if (delta := place.delta(wanted)) is not None]
        if parts:
            place.host(name, _one(path, parts, how))


def _one(path: str, parts: list[tuple[Any, float]], how: How) -> Any:
    kinds = {type(delta) for delta, _ in parts}
    make = getattr(parts[0][0], "blended", None)
    if len(kinds) > 1 or make is None:
        said = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise ModelError(f"{path}: {said} do not combine.", remedy="Combine adapters of one method that can.", code="combine")
    try:
        return make(parts, how)
    except ValueError as error:
        remedy = "Take how=concatenation, or adapters of one size." if how == "sum" else "Take how=sum."
        raise ModelError(f"{path}: {error}", remedy=remedy, code="combine") from error
