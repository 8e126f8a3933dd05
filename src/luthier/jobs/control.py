"""What a user may ask of a job: stop for good, stop for now, go on.

A job on which nobody works changes at once. Of one that is being worked on it is noted what is wanted; its worker stops the child,
and the state changes when the child is gone.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from luthier.core.errors import NotFound
from luthier.jobs.queue import is_held
from luthier.jobs.states import illegal, move, tell
from luthier.store.audit import Who, record
from luthier.store.database import Database
from luthier.store.tables.jobs import Job


def cancel(database: Database, job_id: str, who: Who) -> Job:
    """End a job.

    Raises:
        NotFound: this project has no such job. SpecError: it is over.
    """
    return _ask(database, job_id, who, "cancel", "cancelled", "The job was cancelled.", ("validating_files", "queued", "running", "paused"))


def pause(database: Database, job_id: str, who: Who) -> Job:
    """Stop a job at its next step with a checkpoint, and free its slot.

    Raises:
        NotFound: this project has no such job. SpecError: it neither runs nor waits to, or is being cancelled.
    """
    return _ask(database, job_id, who, "pause", "paused", "The job was paused.", ("queued", "running"))


def resume(database: Database, job_id: str, who: Who) -> Job:
    """Let a paused job go on: it waits at its old place in the queue.

    Raises:
        NotFound: this project has no such job. SpecError: it is not paused.
    """
    with database.write() as session:
        job = find(session, job_id, who.project_id, lock=True)
        if job.state == "running" and job.wanted == "pause":  # not yet stopped: it goes on as soon as it has
            job.wanted = None
            tell(session, job, "The job was asked to go on.")
        elif job.state == "paused":
            move(session, job, "queued", "The job was asked to go on and waits at its old place.")
        else:
            raise illegal(job, "queued")
        record(session, who, "job.resume", job.id)
        return job


def find(session: Session, job_id: str, project_id: str | None, *, lock: bool = False) -> Job:
    """A job of a project.

    Raises:
        NotFound: the project has none of this id.
    """
    query = select(Job).where(Job.id == job_id, Job.project_id == project_id)
    job = session.scalar(query.with_for_update() if lock else query)
    if job is None:
        raise NotFound(f"There is no job {job_id}.", remedy="The list of jobs shows all of this project.", code="unknown_job")
    return job


def _ask(database: Database, job_id: str, who: Who, want: str, to: str, message: str, states: tuple[str, ...]) -> Job:
    with database.write() as session:
        job = find(session, job_id, who.project_id, lock=True)
        if job.state not in states or (job.wanted == "cancel" != want):
            raise illegal(job, to)
        if job.wanted == want:
            return job
        if is_held(job):
            job.wanted = want
            tell(session, job, f"The job was asked to {want}.")
        else:
            move(session, job, to, message)
        record(session, who, f"job.{want}", job.id)
        return job
