"""Webhook endpoints: addresses that are told when something is over."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from luthier.server.wire._base import Answer, Asked, Flag, Luthier, maybe

EventType = Literal[
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
]
"""Those that happen here; a later storey may add others of the wire."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Url = Annotated[str, StringConstraints(min_length=8, max_length=2048)]
Events = Annotated[list[EventType], Field(min_length=1, max_length=32)]


class CreateWebhook(Asked):
    """Where to send, and what."""

    name: Name
    url: Url
    event_types: Events


class UpdateWebhook(Asked):
    """What is left out stays."""

    name: Name | None = None
    url: Url | None = None
    event_types: Events | None = None


class RotateSecret(Asked):
    """A new secret; the old one ends at once."""

    without_effect = frozenset({"keep_old_secret_active_for_24_hours"})
    keep_old_secret_active_for_24_hours: Flag | None = None


class AskedTest(Asked):
    """Send a sample of this kind."""

    event_type: EventType


class Webhook(Answer):
    """``whe_...``"""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    luthier: Luthier | None = maybe()


class WebhookWithSecret(Webhook):
    """Shown once: when it is made, and when the secret is changed."""

    signing_secret: str


class WebhookDeleted(Answer):
    """It is told nothing any more."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: bool


class WebhookTested(Answer):
    """What the address answered."""

    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True] = True
