"""``/v1/batches``: files of requests, answered when there is time."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response

from luthier.jobs import batch_control
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.service import Ours
from luthier.server.shown.batches import shown
from luthier.server.wire import batches as wire
from luthier.server.wire._base import Listed, ignored_by, listed, reply
from luthier.server.wire._query import After, Limit
from luthier.server.wire.error import errors
from luthier.store.pages import page
from luthier.store.tables.batches import Batch

router = APIRouter(prefix="/v1/batches", tags=["Batches"], route_class=Route)


@router.post("", response_model=wire.Batch, responses=errors(404))
def create(body: wire.CreateBatch, caller: Annotated[Caller, allowed("batch.create")], ours: Ours) -> Response:
    """Have a file of requests answered in the background."""
    with ours.database.write() as session:
        batch = batch_control.create(
            session,
            caller.actor,
            input_file_id=body.input_file_id,
            endpoint=body.endpoint,
            completion_window=body.completion_window,
            metadata=body.metadata,
            output_expires=body.output_expires_after.model_dump(mode="json") if body.output_expires_after else None,
            request_id=caller.request_id,
        )
    ours.batches.poke()
    return reply(shown(batch, luthier=ignored_by(body)))


@router.get("", response_model=Listed[wire.Batch])
def many(caller: Annotated[Caller, allowed("batch.read")], ours: Ours, after: After = "", limit: Limit = 20) -> Response:
    """The batches of the project, newest first."""
    with ours.database.read() as session:
        found = page(session, Batch, Batch.project_id == caller.project_id, after=after, limit=limit)
    return reply(listed([shown(batch) for batch in found.rows], found.has_more))


@router.get("/{batch_id}", response_model=wire.Batch, responses=errors(404))
def one(batch_id: str, caller: Annotated[Caller, allowed("batch.read")], ours: Ours) -> Response:
    """One batch."""
    with ours.database.read() as session:
        return reply(shown(batch_control.find(session, batch_id, caller.project_id)))


@router.post("/{batch_id}/cancel", response_model=wire.Batch, responses=errors(404))
def cancel(batch_id: str, caller: Annotated[Caller, allowed("batch.cancel")], ours: Ours) -> Response:
    """Ask for the end of a batch; what was answered is kept in its output."""
    with ours.database.write() as session:
        batch = batch_control.cancel(session, caller.actor, batch_id, request_id=caller.request_id)
    ours.batches.poke()
    return reply(shown(batch))
