"""``/v1/webhook_endpoints``: addresses that are told when jobs and batches are over."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter
from fastapi.responses import Response
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from luthier.jobs import webhooks
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.errors import invalid, not_there
from luthier.server.service import Ours
from luthier.server.wire import webhooks as wire
from luthier.server.wire._base import Listed, ignored_by, listed, reply
from luthier.server.wire._query import After, Limit
from luthier.server.wire.error import errors
from luthier.store import ids
from luthier.store.audit import record
from luthier.store.pages import page
from luthier.store.tables.operation import Delivery, Webhook

router = APIRouter(prefix="/v1/webhook_endpoints", tags=["Webhooks"], route_class=Route)


@router.post("", response_model=wire.WebhookWithSecret)
def create(body: wire.CreateWebhook, caller: Annotated[Caller, allowed("webhook.create")], ours: Ours) -> Response:
    """Have an address told. The secret that signs what is sent is shown now and never again."""
    webhooks.target(body.url, private=ours.settings.private_webhooks)
    now = time.time()
    row = Webhook(
        id=ids.new("whe_"),
        created_at=now,
        updated_at=now,
        project_id=caller.project_id,
        name=body.name,
        url=body.url,
        secret=webhooks.new_secret(),
        events=list(dict.fromkeys(body.event_types)),
    )
    with ours.database.write() as session:
        session.add(row)
        _record(session, caller, "webhook.create", row)
    return reply(wire.WebhookWithSecret(**_facts(row), signing_secret=row.secret, luthier=ignored_by(body)))


@router.get("", response_model=Listed[wire.Webhook])
def many(caller: Annotated[Caller, allowed("webhook.read")], ours: Ours, after: After = "", limit: Limit = 20) -> Response:
    """All of the project, newest first."""
    with ours.database.read() as session:
        found = page(session, Webhook, Webhook.project_id == caller.project_id, after=after, limit=limit)
    return reply(listed([wire.Webhook(**_facts(row)) for row in found.rows], found.has_more))


@router.get("/{webhook_id}", response_model=wire.Webhook, responses=errors(404))
def one(webhook_id: str, caller: Annotated[Caller, allowed("webhook.read")], ours: Ours) -> Response:
    """One of them."""
    with ours.database.read() as session:
        return reply(wire.Webhook(**_facts(_find(session, caller, webhook_id))))


@router.post("/{webhook_id}", response_model=wire.Webhook, responses=errors(404))
def change(webhook_id: str, body: wire.UpdateWebhook, caller: Annotated[Caller, allowed("webhook.create")], ours: Ours) -> Response:
    """Change name, address or events."""
    if body.url is not None:
        webhooks.target(body.url, private=ours.settings.private_webhooks)
    with ours.database.write() as session:
        row = _find(session, caller, webhook_id)
        row.name, row.url = body.name or row.name, body.url or row.url
        row.events = list(dict.fromkeys(body.event_types)) if body.event_types else row.events
        row.updated_at = time.time()
        _record(session, caller, "webhook.update", row)
    return reply(wire.Webhook(**_facts(row), luthier=ignored_by(body)))


@router.delete("/{webhook_id}", response_model=wire.WebhookDeleted, responses=errors(404))
def remove(webhook_id: str, caller: Annotated[Caller, allowed("webhook.delete")], ours: Ours) -> Response:
    """Tell it nothing any more, of what is on its way neither."""
    with ours.database.write() as session:
        row = _find(session, caller, webhook_id)
        session.execute(delete(Delivery).where(Delivery.webhook_id == row.id))
        session.delete(row)
        _record(session, caller, "webhook.delete", row)
    return reply(wire.WebhookDeleted(id=webhook_id, deleted=True))


@router.post("/{webhook_id}/rotate_secret", response_model=wire.WebhookWithSecret, responses=errors(404))
def rotate(webhook_id: str, body: wire.RotateSecret, caller: Annotated[Caller, allowed("webhook.create")], ours: Ours) -> Response:
    """A new secret, shown now; the old one signs nothing any more."""
    with ours.database.write() as session:
        row = _find(session, caller, webhook_id)
        row.secret, row.updated_at = webhooks.new_secret(), time.time()
        _record(session, caller, "webhook.rotate", row)
    return reply(wire.WebhookWithSecret(**_facts(row), signing_secret=row.secret, luthier=ignored_by(body)))


@router.post("/{webhook_id}/test", response_model=wire.WebhookTested, responses=errors(404))
def test(webhook_id: str, body: wire.AskedTest, caller: Annotated[Caller, allowed("webhook.create")], ours: Ours) -> Response:
    """Send a sample now, signed as a real one, and tell what the address answered."""
    with ours.database.read() as session:
        row = _find(session, caller, webhook_id)
    try:
        status = webhooks.send(row.url, row.secret, webhooks.an_event(body.event_type, "sample"), private=ours.settings.private_webhooks)
    except OSError as error:
        raise invalid(
            f"The address could not be reached ({type(error).__name__}). Check it.", param="url", code="webhook_unreachable"
        ) from error
    return reply(wire.WebhookTested(webhook_endpoint_id=row.id, event_type=body.event_type, status_code=status))


def _find(session: Session, caller: Caller, id: str) -> Webhook:
    row = session.scalar(select(Webhook).where(Webhook.id == id, Webhook.project_id == caller.project_id))
    if row is None:
        raise not_there("webhook endpoint", id)
    return row


def _record(session: Session, caller: Caller, action: str, row: Webhook) -> None:
    record(session, caller.actor, action, row.id, request_id=caller.request_id, url=row.url, events=row.events)


def _facts(row: Webhook) -> dict[str, object]:
    return {
        "id": row.id,
        "created_at": int(row.created_at),
        "updated_at": int(row.updated_at),
        "name": row.name,
        "url": row.url,
        "event_types": row.events,
        "signing_secret_hint": f"whsec_...{row.secret[-4:]}",
    }
