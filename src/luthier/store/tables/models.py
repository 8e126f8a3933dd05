"""Models that came out of jobs."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from luthier.store.tables._base import Facts, Numbered, Table


class TunedModel(Numbered, Table):
    """``ft:base:org:suffix:id``, or ``...:ckpt-step-N``.

    Attributes:
        base: name of the base. run: name of the run's folder. folder: where in it the weights lie, e.g. ``adapter``.
        method: which weights they are. certificate: the outcome of the last replay.
        pinned: never let go while others can be.
    """

    __tablename__ = "tuned_models"
    __table_args__ = (Index("ix_tuned_models_project_n", "project_id", "n"),)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    base: Mapped[str]
    method: Mapped[str]
    run: Mapped[str]
    folder: Mapped[str]
    step: Mapped[int | None]
    pinned: Mapped[bool] = mapped_column(default=False)
    certificate: Mapped[Facts | None]
