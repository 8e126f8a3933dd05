"""Files of users, within a project: what is in another project is not there.

Every deed writes its audit row in the same transaction. The bytes go with the last row that names them.
"""

from __future__ import annotations

import time
import unicodedata
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from luthier.core.errors import NotFound, SpecError, did_you_mean
from luthier.store import audit, claims, ids
from luthier.store.audit import CLOCK, Deputy, Who
from luthier.store.blobs import Blobs, Stored
from luthier.store.database import Database, afterwards
from luthier.store.pages import MOST, Order, Page, page
from luthier.store.tables.files import File

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
"""What a user may send a file for."""

RESULTS = ("assistants_output", "batch_output", "fine-tune-results")
"""What the service itself makes files for."""

LONGEST_NAME = 255
"""Bytes of a file's name, as most file systems have it."""


def add(
    session: Session,
    who: Who,
    stored: Stored,
    *,
    filename: str,
    purpose: str,
    expires_after: float | None = None,
    request_id: str | None = None,
) -> File:
    """A file in the project of `who`, with the bytes that were just put.

    Args:
        filename: a name for people; nothing is ever opened by it. purpose: one of `PURPOSES`, or of `RESULTS` for files of ours.
        expires_after: seconds until it goes by itself; none: never.

    Raises:
        SpecError: the name or the purpose cannot be taken. StorageError: the bytes waited too long (``blob_lost``).
    """
    check_name(filename)
    check_purpose(purpose, known=PURPOSES + RESULTS)
    claims.fulfil(session, stored.claim)
    file = File(
        id=ids.new("file-"),
        created_at=(now := time.time()),
        project_id=audit.project_of(who),
        filename=filename,
        purpose=purpose,
        bytes=stored.bytes,
        digest=stored.digest,
        expires_at=None if expires_after is None else now + expires_after,
    )
    session.add(file)
    audit.record(session, who, "file.create", file.id, request_id=request_id, purpose=purpose, bytes=stored.bytes)
    return file


def get(session: Session, project_id: str, file_id: str, *, lock: bool = False) -> File:
    """The file, unless it is deleted, expired or another project's. `lock`: nobody else may take it away before this transaction ends.

    Raises:
        NotFound: as said (``unknown_file``).
    """
    query = select(File).where(*_there(project_id), File.id == file_id)
    file = session.scalar(query.with_for_update() if lock else query)
    if file is None:
        raise NotFound(f"There is no file {file_id!r} in this project.", remedy="List the files of the project.", code="unknown_file")
    return file


def listed(
    session: Session, project_id: str, *, after: str = "", limit: int = MOST, order: Order = "desc", purpose: str = ""
) -> Page[File]:
    """A page of the project's files, of one purpose only if so wished."""
    where: list[Any] = [*_there(project_id), *([File.purpose == purpose] if purpose else [])]
    return page(session, File, *where, after=after, limit=limit, order=order)


def delete(session: Session, who: Who, blobs: Blobs, file_id: str, *, request_id: str | None = None) -> File:
    """Take a file away, and after the commit its bytes, unless another file has the same.

    Raises:
        NotFound: it is not in the project of `who`.
    """
    file = get(session, audit.project_of(who), file_id, lock=True)
    _take_away(session, blobs, file)
    audit.record(session, who, "file.delete", file.id, request_id=request_id)
    return file


def expire(database: Database, blobs: Blobs) -> int:
    """Take all files away whose time is up. Returns how many."""
    with database.write() as session:
        over = session.scalars(select(File).where(File.expires_at <= time.time()).with_for_update(skip_locked=True)).all()
        for file in over:
            _take_away(session, blobs, file)
            audit.record(session, Deputy(CLOCK.name, None, file.project_id), "file.expire", file.id)
    return len(over)


def check_name(filename: str) -> None:
    """A name that can be shown, and sent in a header, without surprises.

    Raises:
        SpecError: it is empty, too long, a path, or has control characters (``bad_filename``).
    """
    odd = next((letter for letter in filename if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")), "")
    why = (
        "is empty"
        if not filename.strip()
        else f"has the control character U+{ord(odd):04X}"
        if odd
        else f"is longer than {LONGEST_NAME} bytes"
        if len(filename.encode()) > LONGEST_NAME
        else "is a path"
        if "/" in filename or "\\" in filename or filename in (".", "..")
        else ""
    )
    if why:
        raise SpecError(
            f"The file's name {why}.", where="filename", remedy="Give it a plain name, like tickets.jsonl.", code="bad_filename"
        )


def check_purpose(purpose: str, *, known: tuple[str, ...] = PURPOSES) -> None:
    """A purpose that a file can be sent for.

    Raises:
        SpecError: it is none of `known` (``bad_purpose``).
    """
    if purpose not in known:
        raise SpecError(f"There is no purpose {purpose!r}.", where="purpose", remedy=did_you_mean(purpose, known), code="bad_purpose")


def _there(project_id: str) -> list[Any]:
    return [File.project_id == project_id, or_(File.expires_at.is_(None), File.expires_at > time.time())]


def _take_away(session: Session, blobs: Blobs, file: File) -> None:
    session.delete(file)
    claims.give_up(session, file.digest)
    afterwards(session, lambda: blobs.let_go([file.digest]))
