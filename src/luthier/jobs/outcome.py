"""How a job ends: all of it in one transaction in the name of the claim, so that it ends once."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from sqlalchemy.orm import Session

from luthier.core.errors import Interrupted, LuthierError, StorageError
from luthier.jobs import metrics, names
from luthier.jobs.queue import Claim, fenced
from luthier.jobs.relay import Relay, tuned_row
from luthier.jobs.states import move
from luthier.store import files
from luthier.store.audit import Deputy
from luthier.store.blobs import Blobs, Stored
from luthier.store.database import Database
from luthier.store.runs import RunFolder, read_json
from luthier.store.tables._base import Facts
from luthier.store.tables.jobs import Job

RESULT_NAME = "step_metrics.csv"
MOST_RESULT = 1 << 30
"""Bytes of a result file; a line is about 40."""


def checked(database: Database, mine: Claim) -> None:
    """The files of a job pass: it waits for a slot."""
    with fenced(database, mine) as (session, job):
        move(session, job, "queued", "Its files pass; it waits for its turn.")


def failed(database: Database, mine: Claim, error: Facts, *, relay: Relay | None = None) -> None:
    """A job cannot be done. What its run told before is kept."""
    with fenced(database, mine) as (session, job):
        if relay is not None:
            relay.write(session, job, last=True)
            session.flush()
        move(session, job, "failed", error["message"], level="error", error=error)


def succeeded(database: Database, blobs: Blobs, mine: Claim, run: RunFolder, relay: Relay) -> None:
    """A job is done: its model has a name, its numbers are a file.

    Raises:
        Interrupted: it was cancelled a moment before; nothing is written.
    """
    steps = metrics.every(run.steps)
    stored = blobs.put([metrics.result_file(steps)], most=MOST_RESULT)
    try:
        with fenced(database, mine) as (session, job):
            if job.wanted == "cancel":
                raise Interrupted("The job was cancelled.")
            relay.write(session, job, last=True)
            _succeed(session, job, stored, run)
            job.trained_tokens = sum(step["tokens"] for step in steps)
            session.flush()
            move(session, job, "succeeded", f"The job is done; its model is called {job.fine_tuned_model}.")
    except LuthierError:
        with suppress(StorageError):
            blobs.drop(stored)
        raise


def _succeed(session: Session, job: Job, stored: Stored, run: RunFolder) -> None:
    """Put what came out of a run into the rows of its project."""
    job.fine_tuned_model, job.verdict = names.tuned_model(session, job), read_json(run.evaluation / "summary.json").get("verdict") or None
    who = Deputy(job.worker_id or "worker", None, job.project_id)
    job.result_files = [files.add(session, who, stored, filename=RESULT_NAME, purpose="fine-tune-results").id]
    model = tuned_row(job, job.fine_tuned_model, run.weights.name)
    model.certificate = _certificate(run)
    session.add(model)


def _certificate(run: RunFolder) -> dict[str, Any]:
    """What a certificate says, without its probes: those are rows of the user's data."""
    content = json.loads(run.certificate.read_text(encoding="utf-8"))
    return {"probes": len(content["probes"]), **{key: content[key] for key in ("luthier", "dtype", "told_apart")}}
