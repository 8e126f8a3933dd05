"""``/v1/chat/completions``, those that were stored: list, look at, change, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from luthier.server import stored
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.errors import invalid
from luthier.server.service import Ours
from luthier.server.wire import chat as wire
from luthier.server.wire._base import listed, reply
from luthier.server.wire._query import After, Limit, Order
from luthier.server.wire.error import errors
from luthier.store.audit import record
from luthier.store.pages import page
from luthier.store.tables.chats import StoredCompletion

router = APIRouter(prefix="/v1/chat/completions", tags=["Chat"], route_class=Route)

Model = Annotated[str, Query(max_length=256, description="Only answers of this model.")]


@router.get("", response_model=wire.Chats)
def many(
    request: Request,
    caller: Annotated[Caller, allowed("chat.read")],
    ours: Ours,
    model: Model = "",
    after: After = "",
    limit: Limit = 20,
    order: Order = "asc",
) -> Response:
    """Stored completions, oldest first. ``metadata[k]=v`` keeps those with this pair."""
    where = [StoredCompletion.project_id == caller.project_id, *([StoredCompletion.model == model] if model else [])]
    where += stored.with_metadata(request.query_params, StoredCompletion.facts)
    with ours.database.read() as session:
        found = page(session, StoredCompletion, *where, after=after, limit=limit, order=order)
    return reply(listed([stored.shown(row) for row in found.rows], found.has_more))


@router.get("/{completion_id}", response_model=wire.Chat, responses=errors(404))
def one(completion_id: str, caller: Annotated[Caller, allowed("chat.read")], ours: Ours) -> Response:
    """One of them."""
    with ours.database.read() as session:
        return reply(stored.shown(stored.find(session, caller, completion_id)))


@router.post("/{completion_id}", response_model=wire.Chat, responses=errors(404))
def change(completion_id: str, body: wire.UpdateChat, caller: Annotated[Caller, allowed("chat.update")], ours: Ours) -> Response:
    """Other metadata."""
    with ours.database.write() as session:
        row = stored.find(session, caller, completion_id)
        row.facts = body.metadata or {}
        record(session, caller.actor, "chat.update", row.id, request_id=caller.request_id)
    return reply(stored.shown(row))


@router.delete("/{completion_id}", response_model=wire.ChatDeleted, responses=errors(404))
def delete(completion_id: str, caller: Annotated[Caller, allowed("chat.delete")], ours: Ours) -> Response:
    """Store it no more."""
    with ours.database.write() as session:
        session.delete(stored.find(session, caller, completion_id))
        record(session, caller.actor, "chat.delete", completion_id, request_id=caller.request_id)
    return reply(wire.ChatDeleted(id=completion_id, deleted=True))


@router.get("/{completion_id}/messages", response_model=wire.StoredMessages, responses=errors(404))
def messages(
    completion_id: str,
    caller: Annotated[Caller, allowed("chat.read")],
    ours: Ours,
    after: After = "",
    limit: Limit = 20,
    order: Order = "asc",
) -> Response:
    """What was asked, in its order."""
    with ours.database.read() as session:
        said = stored.messages(stored.find(session, caller, completion_id))
    ordered = said if order == "asc" else said[::-1]
    ids = [one.id for one in ordered]
    if after and after not in ids:
        raise invalid("No message of this completion has this id.", param="after", code="bad_cursor")
    rest = ordered[ids.index(after) + 1 :] if after else ordered
    return reply(listed(rest[:limit], len(rest) > limit))
