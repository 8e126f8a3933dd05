"""The end of a tuned model: its row, who else might use it, and its weights. The records of its run stay."""

from __future__ import annotations

import shutil

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from luthier.core.errors import NotFound
from luthier.store.audit import Who, record
from luthier.store.database import Database, afterwards
from luthier.store.runs import find
from luthier.store.tables.jobs import Checkpoint, CheckpointPermission
from luthier.store.tables.models import TunedModel


def remove(database: Database, id: str, who: Who, *, request_id: str | None = None) -> None:
    """Delete a tuned model, or a checkpoint, of the project of `who`. Whoever is being answered by it is answered to the end.

    Raises:
        NotFound: the project has no tuned model of this id; bases are not anybody's to delete.
    """
    with database.write() as session:
        row = session.scalar(select(TunedModel).where(TunedModel.id == id, TunedModel.project_id == who.project_id))
        if row is None:
            remedy = "The list of models shows all; bases stay."
            raise NotFound(f"This project has no tuned model {id!r}.", where="model", remedy=remedy, code="unknown_model")
        for table in (Checkpoint, CheckpointPermission):
            session.execute(delete(table).where(table.model_id == id))
        session.delete(row)
        record(session, who, "model.delete", id, request_id=request_id, run=row.run)
        _weights_go(session, row)


def _weights_go(session: Session, row: TunedModel) -> None:
    """After the commit: a model without weights would be worse than weights without a model."""
    try:
        run = find(row.run)
    except NotFound:
        return
    afterwards(session, lambda: shutil.rmtree(run.path / row.folder, ignore_errors=True))
