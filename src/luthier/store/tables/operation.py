"""What running the service needs: the audit, webhooks and their deliveries."""

from __future__ import annotations

import time

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from luthier.store.tables._base import Facts, Numbered, Table


class Audit(Numbered, Table):
    """``audit_...``: one mutating action. `chain` is the place of the hash that will tie each row to the one before.

    Attributes:
        actor: id of the key, or ``local`` for the command line on this machine. action: e.g. ``file.create``. subject: id of its object.
    """

    __tablename__ = "audit"
    organisation_id: Mapped[str | None] = mapped_column(index=True)
    project_id: Mapped[str | None] = mapped_column(index=True)
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    request_id: Mapped[str | None]
    details: Mapped[Facts] = mapped_column(default=dict)
    chain: Mapped[str | None]


class Webhook(Numbered, Table):
    """``whe_...``: an address that is told of events, and the secret that signs them. updated_at: when its row was last changed."""

    __tablename__ = "webhooks"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    name: Mapped[str] = mapped_column(default="")
    updated_at: Mapped[float] = mapped_column(default=time.time)
    url: Mapped[str]
    secret: Mapped[str]
    events: Mapped[list[str]]


class Delivery(Numbered, Table):
    """``evt_...``: one event on its way to one address. attempts so far; due_at: when the next one is; delivered_at, or error for good."""

    __tablename__ = "deliveries"
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"), index=True)
    payload: Mapped[Facts]
    attempts: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[float | None] = mapped_column(index=True)
    delivered_at: Mapped[float | None]
    error: Mapped[str | None]
