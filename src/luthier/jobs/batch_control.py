"""What a user may ask of batches: make one, find one, end one."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from luthier.core.errors import NotFound, SpecError
from luthier.jobs.batch_lines import ENDPOINTS
from luthier.store import files, ids
from luthier.store.audit import Who, project_of, record
from luthier.store.tables.batches import Batch


def create(
    session: Session,
    who: Who,
    *,
    input_file_id: str,
    endpoint: str,
    completion_window: str,
    metadata: dict[str, str] | None = None,
    output_expires: dict[str, Any] | None = None,
    request_id: str | None = None,
) -> Batch:
    """Put a file of requests into the queue; its lines are read when its turn comes.

    Raises:
        NotFound: the project has no such file. SpecError: it was sent for something else, or the endpoint is not answered here.
    """
    if endpoint not in ENDPOINTS:
        remedy = f"Take {', '.join(ENDPOINTS)}."
        raise SpecError(f"{endpoint} is not answered in batches here.", where="endpoint", remedy=remedy, code="bad_value")
    try:
        file = files.get(session, project_of(who), input_file_id)
    except NotFound as error:
        raise NotFound(error.what, where="input_file_id", remedy="Upload it with purpose batch.", code=error.code) from error
    if file.purpose != "batch":
        what = f"{file.id} was sent for {file.purpose}, not for batch."
        raise SpecError(what, where="input_file_id", remedy="Upload it again with purpose batch.", code="wrong_purpose")
    batch = Batch(
        id=ids.new("batch_"),
        created_at=time.time(),
        project_id=project_of(who),
        key_id=who.name,
        endpoint=endpoint,
        completion_window=completion_window,
        input_file_id=file.id,
        output_expires=output_expires,
        facts=metadata or {},
    )
    session.add(batch)
    session.flush()
    record(session, who, "batch.create", batch.id, request_id=request_id, endpoint=endpoint, input_file=file.id)
    return batch


def find(session: Session, batch_id: str, project_id: str | None, *, lock: bool = False) -> Batch:
    """A batch of a project.

    Raises:
        NotFound: the project has none of this id.
    """
    query = select(Batch).where(Batch.id == batch_id, Batch.project_id == project_id)
    batch = session.scalar(query.with_for_update() if lock else query)
    if batch is None:
        raise NotFound(f"There is no batch {batch_id}.", remedy="The list of batches shows all of this project.", code="unknown_batch")
    return batch


def cancel(session: Session, who: Who, batch_id: str, *, request_id: str | None = None) -> Batch:
    """Ask for the end of a batch. It is ``cancelling`` until nobody answers its lines any more; what was answered is kept in its output.

    Raises:
        NotFound: the project has none of this id. SpecError: it is over, or about to be.
    """
    batch = find(session, batch_id, who.project_id, lock=True)
    if batch.state == "cancelling":
        return batch
    if batch.state not in ("validating", "in_progress"):
        remedy = "Nothing is left to be cancelled."
        raise SpecError(f"Batch {batch.id} is {batch.state} and cannot be cancelled.", remedy=remedy, code="batch_state")
    batch.state = "cancelling"
    batch.times = {**batch.times, "cancelling_at": time.time()}
    record(session, who, "batch.cancel", batch.id, request_id=request_id)
    return batch
