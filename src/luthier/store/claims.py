"""Who may still want a blob: the rows that name it, and claims of those who are about to.

Every blob has a row of `files` or `upload_parts`, or a claim, at every moment: a claim is written before the bytes get their name, and
again when a row goes. So what a killed process leaves behind is found by looking at claims that are over.
"""

from __future__ import annotations

import time

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select
from sqlalchemy.orm import Session

from luthier.core.errors import StorageError
from luthier.store import ids
from luthier.store.database import Database, exclusive
from luthier.store.tables.files import BlobClaim, File, UploadPart

CLAIM = 6 * 3600.0
"""Seconds a blob waits for the row that names it. Moving 8 GB to a slow bucket is part of that."""

ALL = "*"
"""The digest of a claim on every blob: a backup is running."""


def claim(database: Database, digest: str, *, seconds: float = CLAIM) -> str:
    """Keep a blob from being removed for a while; returns the id of the claim. Waits for whoever removes it right now."""
    name = ids.new("claim_")
    with database.write() as session:
        alone_with(session, digest)
        session.add(BlobClaim(id=name, digest=digest, until=time.time() + seconds))
    return name


def fulfil(session: Session, name: str) -> None:
    """End a claim in the transaction that writes the row it was made for.

    Raises:
        StorageError: it ran out before (``blob_lost``).
    """
    if session.scalar(select(BlobClaim.until).where(BlobClaim.id == name)) is None:
        raise StorageError(
            f"The bytes were received more than {CLAIM / 3600:.0f} hours ago and have not been kept.",
            where=name,
            remedy="Send them again.",
            code="blob_lost",
        )
    end(session, name)


def renew(database: Database, name: str, *, seconds: float) -> bool:
    """Let a claim run for `seconds` from now; false if it is over and gone."""
    with database.write() as session:
        claim = session.scalar(select(BlobClaim).where(BlobClaim.id == name))
        if claim is not None:
            claim.until = time.time() + seconds
        return claim is not None


def end(session: Session, name: str) -> None:
    """Take back a claim; what it was on is looked after by whoever calls."""
    session.execute(delete(BlobClaim).where(BlobClaim.id == name))


def give_up(session: Session, digest: str, *, name: str = "") -> None:
    """Note that `digest` may have lost the last one who names it; with `name`, end that claim. `Blobs.release` follows the commit."""
    if name:
        end(session, name)
    session.add(BlobClaim(id=ids.new("claim_"), digest=digest, until=0.0))


def alone_with(session: Session, digest: str) -> None:
    """Nobody else claims or removes `digest` until this transaction ends."""
    exclusive(session, f"blob {digest}")


def wanted(session: Session, digest: str) -> tuple[bool, bool]:
    """Whether a row names `digest`, and whether a claim on it is running.

    One statement, so one picture: a claim that becomes a row at this moment is seen as the one or the other.
    """
    named = or_(exists().where(File.digest == digest), exists().where(UploadPart.digest == digest))
    running = exists().where(BlobClaim.digest.in_((digest, ALL)), BlobClaim.until > time.time())
    by_row, by_claim = session.execute(select(named, running)).one()
    return bool(by_row), bool(by_claim)


def settle(session: Session, digest: str) -> None:
    """Forget the claims on `digest` that are over: it is named, or gone."""
    session.execute(delete(BlobClaim).where(_over(BlobClaim.digest == digest)))


def overdue(database: Database) -> list[str]:
    """Digests with a claim that is over, of which somebody must see whether they are still named."""
    with database.write() as session:
        session.execute(delete(BlobClaim).where(_over(BlobClaim.digest == ALL)))
        return list(session.scalars(select(BlobClaim.digest).where(_over(BlobClaim.digest != ALL)).distinct()))


def _over(which: ColumnElement[bool]) -> ColumnElement[bool]:
    return and_(which, BlobClaim.until <= time.time())
