"""Batches: a file of requests, answered when there is time."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from luthier.store.tables._base import Facts, Numbered, Table


class Batch(Numbered, Table):
    """``batch_...``.

    Attributes:
        state: ``validating``, ``failed``, ``in_progress``, ``finalizing``, ``completed``, ``expired``, ``cancelling``, ``cancelled``.
        times: when it entered each state, by the wire's names (``in_progress_at`` ...). counts: ``total``, ``completed``, ``failed``.
        lease_until, token: as those of a job.
    """

    __tablename__ = "batches"
    __table_args__ = (Index("ix_batches_project_n", "project_id", "n"),)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    key_id: Mapped[str | None]
    state: Mapped[str] = mapped_column(default="validating", index=True)
    endpoint: Mapped[str]
    completion_window: Mapped[str]
    input_file_id: Mapped[str]
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]
    output_expires: Mapped[Facts | None]
    errors: Mapped[list[Facts]] = mapped_column(default=list)
    facts: Mapped[Facts] = mapped_column("metadata", default=dict)
    times: Mapped[Facts] = mapped_column(default=dict)
    counts: Mapped[Facts] = mapped_column(default=dict)
    usage: Mapped[Facts] = mapped_column(default=dict)
    model: Mapped[str | None]
    lease_until: Mapped[float | None]
    token: Mapped[int] = mapped_column(default=0)
