"""What a project may keep, counted in the transaction that would add to it, so that two at once cannot both slip through."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from luthier.core.errors import TooMuch
from luthier.store.database import exclusive
from luthier.store.tables.files import File, Upload, UploadPart
from luthier.store.tables.jobs import Job

OPEN_STATES = ("validating_files", "queued", "running", "paused")
"""States of jobs that count: all that are not over."""


def storage(session: Session, project_id: str) -> int:
    """Bytes of the project's files, and of the parts of uploads that are not put together yet."""
    files = select(func.sum(File.bytes)).where(File.project_id == project_id)
    parts = select(func.sum(UploadPart.bytes)).join(Upload, Upload.id == UploadPart.upload_id).where(Upload.project_id == project_id)
    return int(session.scalar(files) or 0) + int(session.scalar(parts) or 0)


def room_for_bytes(session: Session, project_id: str, more: int, *, most: int) -> None:
    """See that `more` bytes still fit under `most`.

    Raises:
        TooMuch: they do not (``quota``).
    """
    exclusive(session, f"storage {project_id}")
    kept = storage(session, project_id)
    if kept + more > most:
        raise TooMuch(
            f"The project keeps {kept:,} bytes and may keep {most:,}; {more:,} more do not fit.",
            remedy="Delete files that are no longer needed, or ask an admin for more.",
            code="quota",
        )


def room_for_job(session: Session, project_id: str, *, most: int) -> None:
    """See that one more job may wait.

    Raises:
        TooMuch: as many as may are waiting or running (``quota``).
    """
    exclusive(session, f"jobs {project_id}")
    there = session.scalar(select(func.count()).select_from(Job).where(Job.project_id == project_id, Job.state.in_(OPEN_STATES))) or 0
    if there >= most:
        raise TooMuch(
            f"{there:,} jobs of the project wait or run, and no more may.",
            remedy="Wait until one is done, cancel one, or ask an admin for more.",
            code="quota",
        )
