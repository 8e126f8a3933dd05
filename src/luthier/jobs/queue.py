"""Who works on which job: claims, leases, fencing tokens.

    claim      the oldest job that waits, or whose worker's lease ran out, becomes the worker's; its token grows by one
    heartbeat  the lease is made longer
    release    its child is gone: the job is cancelled, paused, failed, or waits again at its old place
    fenced     any other writing in the name of a claim

Each is one transaction with the job's row locked, and writes only if the token of the claim is still that of the job. So a worker that
was thought dead, or a child of it, changes nothing once the job has another holder.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.orm import Session

from luthier.core.errors import StorageError
from luthier.jobs.states import OVER, let_go, move, tell
from luthier.store.database import Database
from luthier.store.tables.jobs import Job, Worker

LEASE = 30.0
"""Seconds after which a job is taken to have lost its worker. A worker renews it every few seconds."""

CHECKING = "files"
"""The slot in which files are checked: it takes no device, so that bad data is told while another job trains."""


PATIENCE = 60
"""What a job has of it, and has again with every step. Each loss takes its share, so that losses of several kinds add up."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A way to lose a child.

    Attributes:
        most: how often it may happen without a step in between before the job fails, a divisor of `PATIENCE`. Not for ever: it may be the
            job's own fault.
        pause: seconds the job then waits, doubled each time.
    """

    most: int
    pause: float

    @property
    def share(self) -> int:
        """What it takes of a job's patience."""
        return PATIENCE // self.most


KILLED = Loss(10, 0.0)
"""From outside: by somebody, or because memory ran out."""

TROUBLED = Loss(20, 5.0)
"""Disk or database were in trouble, which would end a whole queue of jobs: an hour and a quarter of tries."""

CRASHED = Loss(3, 5.0)
"""By itself."""

LONGEST_PAUSE = 300.0


class Taken(StorageError):
    """The claim is over: somebody else holds the job now, or nobody."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a job."""

    job_id: str
    token: int
    device: str


def claim(database: Database, *, worker_id: str, device: str, lease: float = LEASE) -> Claim | None:
    """Take the job that has waited longest for a slot of this kind, if there is one.

    Args:
        device: ``files`` takes jobs whose files are to be checked; any other one those that are queued.
    """
    with database.read() as session:  # nobody waits, most of the time: nothing is locked to find that out
        if session.scalar(_waiting(device)) is None:
            return None
    with database.write() as session:
        while (job := session.scalar(_waiting(device))) is not None:
            if job.wanted is not None:  # its worker was lost before it could obey
                _settle(session, job)
                session.flush()
                continue
            if job.state == "queued":
                move(session, job, "running", "The job goes on." if job.started_at else "The job begins.")
            elif job.worker_id is not None:
                tell(session, job, "Its worker was lost; another one goes on.", level="warn")
            job.run = job.run or job.id
            job.worker_id, job.device, job.lease_until = worker_id, device, time.time() + lease
            job.token, job.child = job.token + 1, None
            return Claim(job.id, job.token, device)
    return None


def heartbeat(database: Database, claims: Iterable[Claim], *, worker_id: str, lease: float = LEASE) -> None:
    """Make the leases of a worker longer, and say that it is alive. A claim that is over is passed by."""
    with database.write() as session:
        for one in claims:
            job = _mine(session, one)
            if job is not None:
                job.lease_until = time.time() + lease
        session.execute(update(Worker).where(Worker.id == worker_id).values(seen_at=time.time()))


def wanted(database: Database, claims: Iterable[Claim]) -> dict[Claim, str | None]:
    """What users want of the jobs of a worker (``cancel``, ``pause``, None). Claims that are over are left out."""
    by_id = {one.job_id: one for one in claims}
    with database.read() as session:
        rows = session.execute(select(Job.id, Job.token, Job.state, Job.wanted).where(Job.id.in_(by_id)))
        return {by_id[row.id]: row.wanted for row in rows if row.token == by_id[row.id].token and row.state not in OVER}


def release(database: Database, mine: Claim, *, crash: str = "", how: Loss = CRASHED) -> None:
    """The child of a claim is gone. If the job is not over: do what is wanted of it, or let it wait again at its old place.

    Args:
        crash: how the child ended, in words, where nobody had asked it to stop. how: which kind of loss that is.
    """
    with database.write() as session:
        job = _mine(session, mine)
        if job is None:
            return
        job.attempts += how.share if crash else 0
        if crash and job.attempts >= PATIENCE and job.wanted is None:
            what = f"The process that did the work ended again and again without getting further, at last so: {crash}."
            move(session, job, "failed", what, level="error", error={"code": "process_lost", "message": what, "param": None})
            return
        _give_back(session, job, f"Its process was lost ({crash}); it goes on from its last checkpoint." if crash else "")
        if crash and how.pause:
            job.lease_until = time.time() + min(LONGEST_PAUSE, how.pause * 2 ** (job.attempts / how.share - 1))


def recover(database: Database, worker_id: str) -> int:
    """A worker is gone, and its children with it: what it held is given back. Returns how many jobs that were."""
    with database.write() as session:
        jobs = session.scalars(select(Job).where(Job.worker_id == worker_id).with_for_update()).all()
        for job in jobs:
            _give_back(session, job, "Its worker was lost; it goes on from its last checkpoint.")
        return len(jobs)


@contextmanager
def fenced(database: Database, mine: Claim) -> Iterator[tuple[Session, Job]]:
    """One transaction on a job that is still ours.

    Raises:
        Taken: it is not; nothing is written.
    """
    with database.write() as session:
        job = _mine(session, mine)
        if job is None:
            raise Taken("Another worker holds this job now, or it is over.", where=mine.job_id, remedy="Leave it.", code="run_taken")
        yield session, job


def locked(session: Session, job_id: str) -> Job | None:
    """A job's row, kept from others until the transaction ends."""
    return session.scalar(select(Job).where(Job.id == job_id).with_for_update())


def is_held(job: Job) -> bool:
    """Whether a worker holds the job and its lease runs."""
    return job.worker_id is not None and (job.lease_until or 0.0) > time.time()


def position(session: Session, job: Job) -> int | None:
    """Place in the queue, 1 is next; None for a job that does not wait to run."""
    if job.state not in ("validating_files", "queued"):
        return None
    return 1 + (session.scalar(select(func.count()).where(Job.state == "queued", Job.n < job.n)) or 0)


def _waiting(device: str) -> Select[Job]:
    """Those nobody holds; what runs is held until its lease runs out, and what has just crashed waits as long as its own says."""
    states = ("validating_files",) if device == CHECKING else ("queued", "running")
    free = or_(Job.lease_until.is_(None), Job.lease_until < time.time())
    return select(Job).where(Job.state.in_(states), free).order_by(Job.n).limit(1).with_for_update(skip_locked=True)


def _mine(session: Session, mine: Claim) -> Job | None:
    job = locked(session, mine.job_id)
    return job if job is not None and job.token == mine.token and job.state not in OVER else None


def _give_back(session: Session, job: Job, trouble: str) -> None:
    """Nobody works on the job any more: what is wanted of it happens, or it waits again at its old place."""
    if job.wanted is not None:
        _settle(session, job)
    elif job.state == "running":
        move(session, job, "queued", trouble or "The job waits: its worker stops.", level="warn" if trouble else "info")
    else:
        let_go(job)


def _settle(session: Session, job: Job) -> None:
    """Do what the user wants of a job on which nobody works any more."""
    if job.wanted == "cancel":
        move(session, job, "cancelled", "The job was cancelled.")
    else:
        move(session, job, "paused", "The job was paused; its last checkpoint is kept.")
