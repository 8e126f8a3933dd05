"""Uploads: a large file in parts, put together when all are there."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from luthier.core.errors import DataError, NotFound, SpecError, StorageError
from luthier.store import audit, claims, files, ids
from luthier.store.audit import CLOCK, Deputy, Who
from luthier.store.blobs import Blobs, Stored
from luthier.store.database import Database, afterwards
from luthier.store.tables.files import File, Upload, UploadPart

LIFE = 3600.0
"""Seconds an upload may take, as on the wire."""

MOST_BYTES = 8 * 2**30
MOST_PART_BYTES = 64 * 2**20
"""Bytes of a whole upload and of one part, as on the wire."""


def create(
    session: Session,
    who: Who,
    *,
    filename: str,
    purpose: str,
    mime_type: str,
    bytes: int,
    file_expires: dict[str, Any] | None = None,
    request_id: str | None = None,
) -> Upload:
    """Announce a file of `bytes` bytes that will come in parts.

    Args:
        file_expires: the ``expires_after`` of the file to be: ``{"anchor": "created_at", "seconds": ...}``.

    Raises:
        SpecError: name, purpose or size cannot be taken.
    """
    files.check_name(filename)
    files.check_purpose(purpose)
    if not 1 <= bytes <= MOST_BYTES:
        raise SpecError(
            f"An upload has 1 to {MOST_BYTES:,} bytes, not {bytes:,}.", where="bytes", remedy="Split the file.", code="bad_value"
        )
    upload = Upload(
        id=ids.new("upload_"),
        created_at=(now := time.time()),
        project_id=audit.project_of(who),
        filename=filename,
        purpose=purpose,
        mime_type=mime_type,
        bytes=bytes,
        status="pending",
        expires_at=now + LIFE,
        file_expires=file_expires,
    )
    session.add(upload)
    audit.record(session, who, "upload.create", upload.id, request_id=request_id, purpose=purpose, bytes=bytes)
    return upload


def get(session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> Upload:
    """The upload, in whatever state. `lock`: nobody else may change it before this transaction ends.

    Raises:
        NotFound: it is not in the project (``unknown_upload``).
    """
    query = select(Upload).where(Upload.project_id == project_id, Upload.id == upload_id)
    upload = session.scalar(query.with_for_update() if lock else query)
    if upload is None:
        raise NotFound(f"There is no upload {upload_id!r} in this project.", remedy="Begin a new one.", code="unknown_upload")
    return upload


def add_part(session: Session, who: Who, upload_id: str, stored: Stored, *, request_id: str | None = None) -> UploadPart:
    """One part of an upload, with the bytes that were just put. Parts may come in any order, and at the same time.

    Raises:
        NotFound: there is no such upload. DataError: it is over (``upload_over``), or more bytes came than were announced
            (``upload_bytes``).
    """
    upload = pending(session, audit.project_of(who), upload_id)
    there = int(session.scalar(select(func.sum(UploadPart.bytes)).where(UploadPart.upload_id == upload.id)) or 0)
    if there + stored.bytes > upload.bytes:
        raise _wrong_bytes(upload, there + stored.bytes)
    claims.fulfil(session, stored.claim)
    part = UploadPart(id=ids.new("part_"), created_at=time.time(), upload_id=upload.id, bytes=stored.bytes, digest=stored.digest)
    session.add(part)
    audit.record(session, who, "upload.part", upload.id, request_id=request_id, part=part.id, bytes=part.bytes)
    return part


def complete(
    database: Database, blobs: Blobs, who: Who, upload_id: str, part_ids: Sequence[str], *, md5: str = "", request_id: str | None = None
) -> tuple[Upload, File]:
    """Put the parts together in the order given. Streamed; nothing is there of it before all of it is.

    Args:
        md5: of the whole file in hexadecimal, to be compared; empty: not compared.

    Raises:
        NotFound: there is no such upload, or a part is not one of its own. SpecError: a part is named twice.
        DataError: the upload is over, or the bytes or their MD5 are not what was announced. The upload stays open for another try.
    """
    with database.read() as session:
        upload = pending(session, audit.project_of(who), upload_id)
        parts = _in_order(session, upload, part_ids)
    if (size := sum(part.bytes for part in parts)) != upload.bytes:
        raise _wrong_bytes(upload, size)
    check = hashlib.md5(usedforsecurity=False)
    try:
        stored = blobs.put(_watched(_joined(blobs, parts), check), most=upload.bytes)
    except StorageError:
        with database.read() as session:
            pending(session, audit.project_of(who), upload_id)  # somebody else has ended it meanwhile: that is what there is to say
        raise
    try:
        if md5 and md5.lower() != check.hexdigest():
            raise DataError(
                f"The MD5 of the {upload.bytes:,} bytes is {check.hexdigest()}, not {md5}.",
                where=upload_id,
                remedy="See that the parts are named in their order, and send those anew that were damaged.",
                code="upload_md5",
            )
        with database.write() as session:
            return _finish(session, blobs, who, upload_id, stored, request_id)
    except BaseException:
        blobs.drop(stored)
        raise


def cancel(session: Session, who: Who, blobs: Blobs, upload_id: str, *, request_id: str | None = None) -> Upload:
    """Give an upload up; its parts go after the commit.

    Raises:
        NotFound: there is no such upload. DataError: it is over already.
    """
    upload = pending(session, audit.project_of(who), upload_id)
    _end(session, blobs, upload, "cancelled")
    audit.record(session, who, "upload.cancel", upload.id, request_id=request_id)
    return upload


def expire(database: Database, blobs: Blobs) -> int:
    """End all uploads whose time is up, and take their parts away. Returns how many."""
    with database.write() as session:
        due = select(Upload).where(Upload.status == "pending", Upload.expires_at <= time.time())
        over = session.scalars(due.with_for_update(skip_locked=True)).all()
        for upload in over:
            _end(session, blobs, upload, "expired")
            audit.record(session, Deputy(CLOCK.name, None, upload.project_id), "upload.expire", upload.id)
    return len(over)


def pending(session: Session, project_id: str, upload_id: str) -> Upload:
    """An upload that still takes parts, and is nobody else's to change until this transaction ends.

    Raises:
        NotFound: there is no such upload. DataError: it is over (``upload_over``).
    """
    upload = get(session, project_id, upload_id, lock=True)
    status = "expired" if upload.status == "pending" and upload.expires_at <= time.time() else upload.status
    if status != "pending":
        raise DataError(f"The upload is {status}.", where=upload_id, remedy="Begin a new one.", code="upload_over")
    return upload


def _in_order(session: Session, upload: Upload, part_ids: Sequence[str]) -> list[UploadPart]:
    if len(set(part_ids)) != len(part_ids):
        raise SpecError(
            "A part is named twice.", where="part_ids", remedy="Name each part once, in the order of the file.", code="bad_value"
        )
    there = {part.id: part for part in session.scalars(select(UploadPart).where(UploadPart.upload_id == upload.id))}
    if missing := next((name for name in part_ids if name not in there), ""):
        raise NotFound(f"The upload has no part {missing!r}.", where=upload.id, remedy="Send it again.", code="unknown_part")
    return [there[name] for name in part_ids]


def _finish(session: Session, blobs: Blobs, who: Who, upload_id: str, stored: Stored, request_id: str | None) -> tuple[Upload, File]:
    """File and end of the upload in one transaction; of two who complete it at once, the second finds it over."""
    upload = pending(session, audit.project_of(who), upload_id)
    seconds = (upload.file_expires or {}).get("seconds")
    file = files.add(session, who, stored, filename=upload.filename, purpose=upload.purpose, expires_after=seconds, request_id=request_id)
    _end(session, blobs, upload, "completed")
    upload.file_id = file.id
    audit.record(session, who, "upload.complete", upload.id, request_id=request_id, file=file.id)
    return upload, file


def _end(session: Session, blobs: Blobs, upload: Upload, status: str) -> None:
    upload.status = status
    digests = set()
    for part in session.scalars(select(UploadPart).where(UploadPart.upload_id == upload.id)):
        session.delete(part)
        digests.add(part.digest)
    for digest in digests:
        claims.give_up(session, digest)
    afterwards(session, lambda: blobs.let_go(digests))


def _joined(blobs: Blobs, parts: Iterable[UploadPart]) -> Iterator[bytes]:
    for part in parts:
        yield from blobs.read(part.digest)


def _watched(chunks: Iterable[bytes], check: Any) -> Iterator[bytes]:
    for chunk in chunks:
        check.update(chunk)
        yield chunk


def _wrong_bytes(upload: Upload, size: int) -> DataError:
    return DataError(
        f"{upload.bytes:,} bytes were announced, and these parts have {size:,}.",
        where=upload.id,
        remedy="Name all parts, and each once; or begin a new upload with the right size.",
        code="upload_bytes",
    )
