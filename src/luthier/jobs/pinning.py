"""Tuned models that stay in memory, by name."""

from __future__ import annotations

from sqlalchemy import select

from luthier.core.errors import NotFound
from luthier.store.audit import Who, record
from luthier.store.database import Database
from luthier.store.tables.models import TunedModel


def pin(database: Database, id: str, who: Who, *, pinned: bool, request_id: str | None = None) -> None:
    """Say whether a tuned model of the project of `who` stays in memory once it was asked for. It holds from the next question on.

    Raises:
        NotFound: the project has no tuned model of this id; bases are let go last by themselves.
    """
    with database.write() as session:
        row = session.scalar(select(TunedModel).where(TunedModel.id == id, TunedModel.project_id == who.project_id))
        if row is None:
            remedy = "The list of models shows all; only tuned ones are pinned."
            raise NotFound(f"This project has no tuned model {id!r}.", where="model", remedy=remedy, code="unknown_model")
        row.pinned = pinned
        record(session, who, "model.pin", id, request_id=request_id, pinned=pinned)
