"""``/v1/models``: what can be asked here, and the end of what was tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter
from fastapi.responses import Response

from luthier.jobs.pinning import pin
from luthier.jobs.removal import remove
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.service import Ours
from luthier.server.wire import models as wire
from luthier.server.wire._base import reply
from luthier.server.wire.error import errors

if TYPE_CHECKING:
    from luthier.jobs.serving import Offer

router = APIRouter(prefix="/v1/models", tags=["Models"], route_class=Route)


@router.get("", response_model=wire.Models)
def many(caller: Annotated[Caller, allowed("model.read")], ours: Ours) -> Response:
    """Bases of this machine, and the tuned models of the project."""
    return reply(wire.Models(data=[_shown(offer, caller) for offer in ours.host.models(caller.project_id)]))


@router.get("/{model:path}", response_model=wire.Model, responses=errors(404))
def one(model: str, caller: Annotated[Caller, allowed("model.read")], ours: Ours) -> Response:
    """One of them. A name with a slash is sent as ``%2F``, or as it is."""
    return reply(_shown(ours.host.model(model, caller.project_id), caller))


@router.post("/{model:path}", response_model=wire.Model, responses=errors(404))
def change(model: str, body: wire.UpdateModel, caller: Annotated[Caller, allowed("model.pin")], ours: Ours) -> Response:
    """Pin a tuned model of the project, so that it stays in memory; or no longer, and it leaves it."""
    pin(ours.database, model, caller.actor, pinned=body.pinned, request_id=caller.request_id)
    if not body.pinned:
        ours.host.forget(model)
    return reply(_shown(ours.host.model(model, caller.project_id), caller))


@router.delete("/{model:path}", response_model=wire.ModelDeleted, responses=errors(404))
def delete(model: str, caller: Annotated[Caller, allowed("model.delete")], ours: Ours) -> Response:
    """Delete a tuned model of the project and its weights. Its run keeps its records; bases stay."""
    remove(ours.database, model, caller.actor, request_id=caller.request_id)
    ours.host.forget(model)
    return reply(wire.ModelDeleted(id=model, deleted=True))


def _shown(offer: Offer, caller: Caller) -> wire.Model:
    owner = caller.actor.organisation if offer.owner != "luthier" else "luthier"
    more = wire.ModelLuthier(
        base=offer.base or None,
        method=offer.method or None,
        loaded=offer.loaded,
        pinned=offer.pinned or None,
        certificate=offer.certificate,
    )
    return wire.Model(id=offer.id, created=int(offer.created), owned_by=owner, luthier=more)
