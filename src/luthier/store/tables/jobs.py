"""Jobs, what they tell, and who works on them. The job's row is the truth; a process is never the record.

validating_files -> queued -> running -> succeeded | failed | cancelled,  running -> paused -> queued
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from luthier.store.tables._base import Facts, Numbered, Table


class Job(Numbered, Table):
    """``ftjob-...``. Its number `n` is its place in the queue, and stays so when it is paused or its worker dies.

    Attributes:
        state: see above. wanted: what the user asked of it while it runs: ``pause``, ``cancel``; nothing otherwise.
        method, hyperparameters: as the wire shows them. spec: the whole Luthier Spec it runs. asked: fields of the request in the
            ``luthier`` object, and those that were ignored.
        run: name of the run's folder; empty before the first start.
        request_digest: SHA-256 of key and body, by which a repeated request is known.
        worker_id, device, lease_until, token: who holds it, on which device, until when, and the fencing token, one more at every claim.
        child: process group of the child on the worker's host. attempts: patience used up by lost children since it last came further, of
        `queue.PATIENCE`.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_project_n", "project_id", "n"), Index("ix_jobs_state_n", "state", "n"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    key_id: Mapped[str | None]
    state: Mapped[str] = mapped_column(default="validating_files")
    wanted: Mapped[str | None]
    model: Mapped[str]
    training_file: Mapped[str]
    validation_file: Mapped[str | None]
    suffix: Mapped[str | None]
    seed: Mapped[int]
    facts: Mapped[Facts] = mapped_column("metadata", default=dict)
    method: Mapped[Facts]
    hyperparameters: Mapped[Facts] = mapped_column(default=dict)
    integrations: Mapped[list[Facts]] = mapped_column(default=list)
    spec: Mapped[Facts]
    asked: Mapped[Facts] = mapped_column(default=dict)
    request_digest: Mapped[str] = mapped_column(index=True)
    run: Mapped[str] = mapped_column(default="")
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    estimated_finish: Mapped[float | None]
    error: Mapped[Facts | None]
    fine_tuned_model: Mapped[str | None]
    trained_tokens: Mapped[int | None]
    result_files: Mapped[list[str]] = mapped_column(default=list)
    verdict: Mapped[Facts | None]
    worker_id: Mapped[str | None] = mapped_column(index=True)
    device: Mapped[str | None]
    lease_until: Mapped[float | None]
    token: Mapped[int] = mapped_column(default=0)
    child: Mapped[int | None]
    attempts: Mapped[int] = mapped_column(default=0)


class JobEvent(Numbered, Table):
    """``ftevent-...``: a message or the metrics of a step. level: ``info``, ``warn``, ``error``."""

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job_n", "job_id", "n"),)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    level: Mapped[str]
    type: Mapped[str]  # message, metrics
    message: Mapped[str]
    data: Mapped[Facts | None]


class Checkpoint(Numbered, Table):
    """``ftckpt_...``: weights of one step that can be asked as a model of their own."""

    __tablename__ = "checkpoints"
    __table_args__ = (Index("ix_checkpoints_job_n", "job_id", "n"),)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    model_id: Mapped[str] = mapped_column(unique=True)
    step: Mapped[int]
    metrics: Mapped[Facts]


class CheckpointPermission(Numbered, Table):
    """``cp_...``: another project that may use a checkpoint."""

    __tablename__ = "checkpoint_permissions"
    model_id: Mapped[str] = mapped_column(index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))


class Worker(Numbered, Table):
    """``worker_...``: a process that runs jobs. slots: how many jobs each device takes at once."""

    __tablename__ = "workers"
    host: Mapped[str]
    pid: Mapped[int]
    seen_at: Mapped[float]
    slots: Mapped[Facts]
