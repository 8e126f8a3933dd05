"""What can be asked in a project, as the database knows it: tuned models, whose they are, and where their weights lie."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from luthier.core.errors import LuthierError, NotFound
from luthier.store.database import Database
from luthier.store.runs import RunFolder
from luthier.store.tables.jobs import CheckpointPermission
from luthier.store.tables.models import TunedModel


@dataclass(frozen=True)
class Offer:
    """A model that can be asked.

    Attributes:
        owner: ``luthier`` for a base, else the project it belongs to. created: seconds since 1970. base: what it was tuned from.
        loaded: it is in memory now.
    """

    id: str
    owner: str
    created: float
    base: str = ""
    method: str = ""
    step: int | None = None
    pinned: bool = False
    loaded: bool = False
    certificate: dict[str, Any] | None = None


def offer_of(row: TunedModel, loaded: set[str]) -> Offer:
    """A tuned model as it is offered."""
    here = row.id in loaded
    return Offer(row.id, row.project_id, row.created_at, row.base, row.method, row.step, row.pinned, here, row.certificate)


def rows(session: Session, project_id: str) -> list[TunedModel]:
    """All tuned models a project sees, oldest first."""
    return list(session.scalars(select(TunedModel).where(_seen(project_id)).order_by(TunedModel.n)))


def row_of(session: Session, id: str, project_id: str) -> TunedModel:
    """A tuned model of a project.

    Raises:
        NotFound: the project sees none of this id.
    """
    row = session.scalar(select(TunedModel).where(TunedModel.id == id, _seen(project_id)))
    if row is None:
        what = f"There is no model {id!r} in this project."
        raise NotFound(what, where="model", remedy="The list of models shows all.", code="unknown_model")
    return row


def weights(run: RunFolder, row: TunedModel) -> Path:
    """The folder a model's weights lie in.

    Raises:
        NotFound: it is not there any more.
    """
    folder = run.path / row.folder
    if not folder.is_dir():
        what = f"The weights of {row.id} are not there any more."
        raise NotFound(what, where=str(folder), remedy="Restore the run's folder from a backup, or tune again.", code="weights_gone")
    return folder


@contextmanager
def noted(database: Database, row: TunedModel) -> Iterator[dict[str, Any]]:
    """Keep the outcome of a replay in the model's row: whether it held, when, and why not; and what is put into the yielded dict."""
    outcome: dict[str, Any] = {"held": True}
    try:
        yield outcome
    except LuthierError as error:
        outcome |= {"held": False, "error": error.to_json()}
        raise
    finally:
        with database.write() as session:
            kept = session.scalar(select(TunedModel).where(TunedModel.id == row.id))
            if kept is not None:
                said = {key: value for key, value in (kept.certificate or {}).items() if key not in ("error", "why")}
                kept.certificate = {**said, **outcome, "replayed_at": int(time.time())}


def _seen(project_id: str) -> Any:
    """A project sees its own models, and checkpoints that it was permitted to use."""
    permitted = select(CheckpointPermission.model_id).where(CheckpointPermission.project_id == project_id)
    return or_(TunedModel.project_id == project_id, TunedModel.id.in_(permitted))
