"""Models that came out of jobs."""

from __future__ import annotations

from sqlalchemy import ForeignKey
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
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    base: Mapped[str]
    method: Mapped[str]
    run: Mapped[str]
    folder: Mapped[str]
    step: Mapped[int | None]
    pinned: Mapped[bool] = mapped_column(default=False)
    certificate: Mapped[Facts | None]
