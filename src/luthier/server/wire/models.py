"""Models: the bases of this machine, and what was tuned from them."""

from __future__ import annotations

from typing import Any, Literal

from luthier.server.wire._base import Answer, Asked, Flag, Luthier, maybe


class ModelLuthier(Luthier):
    """Beyond the wire: whether it is in memory; of a tuned one its base, method, whether it is pinned, and what the last replay of its
    certificate said."""

    base: str | None = maybe()
    method: str | None = maybe()
    loaded: bool | None = maybe()
    pinned: bool | None = maybe()
    certificate: dict[str, Any] | None = maybe()


class UpdateModel(Asked):
    """What may be changed of a tuned model. `pinned`: it stays in memory once it was asked for."""

    pinned: Flag


class Model(Answer):
    """A base by its name, or ``ft:base:organisation:suffix:id``, or a checkpoint ``...:ckpt-step-N``."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    luthier: ModelLuthier | None = maybe()


class Models(Answer):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


class ModelDeleted(Answer):
    """The weights are gone."""

    id: str
    object: Literal["model"] = "model"
    deleted: bool
