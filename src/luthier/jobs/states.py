"""The states of a job, and the one place where it goes from one to another.

    validating_files -> queued -> running -> succeeded | failed | cancelled,  running -> paused -> queued

Whoever asks for a move has the job's row locked (`queue.locked`); a move writes the row, the event people read and the webhooks
that tell of it in one transaction.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy.orm import Session

from luthier.core.errors import SpecError
from luthier.jobs import webhooks
from luthier.store import ids
from luthier.store.tables._base import Facts
from luthier.store.tables.jobs import Job, JobEvent

MOVES: dict[str, frozenset[str]] = {
    "validating_files": frozenset({"queued", "failed", "cancelled"}),
    "queued": frozenset({"running", "paused", "failed", "cancelled"}),
    "running": frozenset({"queued", "paused", "succeeded", "failed", "cancelled"}),
    "paused": frozenset({"queued", "cancelled"}),
    "succeeded": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
"""From each state to those that may follow it."""

OVER = frozenset(state for state, after in MOVES.items() if not after)
"""States that nothing follows."""


def move(session: Session, job: Job, to: str, message: str, *, level: str = "info", error: Facts | None = None) -> None:
    """Put a job into another state, in the transaction of `session`.

    Whoever worked on it works on it no more: unless it begins to run, its lease ends, and its token grows, so that a child which is
    still alive somewhere writes nothing any more.

    Args:
        message: for the list of its events. level: ``info``, ``warn``, ``error`` of that event. error: ``code``, ``message``, ``param``.

    Raises:
        SpecError: the state does not allow it (``job_state``).
    """
    if to not in MOVES[job.state]:
        raise illegal(job, to)
    job.state, job.error = to, error
    if to == "running":
        job.started_at = job.started_at or time.time()
    else:
        let_go(job)
    if to in OVER:
        job.finished_at = time.time()
        webhooks.announce(session, job.project_id, f"fine_tuning.job.{to}", job.id)
    tell(session, job, message, level=level)


def let_go(job: Job) -> None:
    """End the hold of whoever works on the job, without changing its state."""
    job.worker_id = job.device = job.lease_until = job.child = job.estimated_finish = job.wanted = None
    job.token += 1


def tell(session: Session, job: Job, message: str, *, level: str = "info", data: dict[str, Any] | None = None) -> None:
    """Add an event that people read; with `data` it is one of metrics."""
    kind = "message" if data is None else "metrics"
    session.add(JobEvent(id=ids.new("ftevent-"), job_id=job.id, level=level, type=kind, message=message, data=data))


def illegal(job: Job, to: str) -> SpecError:
    """Why a job cannot become what was asked for."""
    asked = {"paused": "paused", "queued": "resumed", "cancelled": "cancelled"}
    may = [word for state, word in asked.items() if state in MOVES[job.state] and (state != "queued" or job.state == "paused")]
    ends = not may or job.wanted == "cancel"
    state = "being cancelled" if job.wanted == "cancel" else job.state
    remedy = "It is over; make a new one." if ends else f"It can be {' or '.join(may)}."
    return SpecError(f"Job {job.id} is {state} and cannot be {asked.get(to, to)}.", remedy=remedy, code="job_state")
