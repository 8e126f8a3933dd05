"""Keys: a secret of 256 random bits that is shown once; only its hash is kept.

A hash that is slow on purpose, as passwords need it, would bring nothing here: nobody guesses 256 bits.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from luthier.core.errors import NotFound, SpecError, Unauthenticated
from luthier.security.limits import Limits
from luthier.security.roles import check_scopes
from luthier.store import audit, ids
from luthier.store.audit import Who
from luthier.store.pages import Order, Page, page
from luthier.store.tables.tenants import Key

SHOWN = len("lk-") + 6
"""Characters of the secret that lists show, to tell keys apart."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. The secret is nowhere else, and not in this object's `repr`."""

    key: Key
    secret: str = field(repr=False)


def create(
    session: Session,
    who: Who,
    *,
    user_id: str,
    project_id: str,
    name: str,
    scopes: list[str] | None = None,
    limits: dict[str, Any] | None = None,
    expires_after: float | None = None,
) -> NewKey:
    """A key that acts for a user in a project.

    Args:
        scopes: actions or patterns of them (`roles.check_scopes`); none: all that the user may.
        limits: what differs from the service's `Limits`. expires_after: seconds until it opens nothing any more; none: never.

    Raises:
        SpecError: a scope or a limit that does not exist, or a time that is over already.
    """
    check_scopes(scopes or [])
    Limits().changed(limits or {})
    if expires_after is not None and expires_after <= 0:
        raise SpecError("A key cannot expire before it is made.", where="expires_after", remedy="Give a later time.", code="bad_value")
    secret = "lk-" + secrets.token_urlsafe(32)
    now = time.time()
    key = Key(
        id=ids.new("key_"),
        created_at=now,
        name=name,
        prefix=secret[:SHOWN],
        digest=_digest(secret),
        user_id=user_id,
        project_id=project_id,
        scopes=scopes or [],
        limits=limits or {},
        expires_at=None if expires_after is None else now + expires_after,
    )
    session.add(key)
    audit.record(session, who, "key.create", key.id, name=name, user=user_id, project=project_id, scopes=scopes or [])
    return NewKey(key, secret)


def find(session: Session, secret: str) -> Key:
    """The key behind a secret.

    The row is found by the hash of what was sent, so the time it takes says nothing about a secret that was nearly right; the comparison
    in constant time is the belt to that brace.

    Raises:
        Unauthenticated: nothing was sent (``no_key``), or it opens nothing: never did (``wrong_key``), revoked, expired.
    """
    if not secret:
        raise Unauthenticated("No key was sent.", where="Authorization", remedy="Send it as: Authorization: Bearer lk-...", code="no_key")
    digest = _digest(secret)
    key = session.scalar(select(Key).where(Key.digest == digest))
    if key is None or not hmac.compare_digest(key.digest, digest):
        raise Unauthenticated("This key opens nothing.", where="Authorization", remedy=_ANOTHER, code="wrong_key")
    if key.revoked_at is not None:
        raise Unauthenticated(f"The key {key.prefix}... was revoked.", where="Authorization", remedy=_ANOTHER, code="revoked_key")
    if key.expires_at is not None and key.expires_at <= time.time():
        raise Unauthenticated(f"The key {key.prefix}... has expired.", where="Authorization", remedy=_ANOTHER, code="expired_key")
    return key


def listed(session: Session, *where: Any, after: str = "", limit: int = 100, order: Order = "asc") -> Page[Key]:
    """A page of keys, those of a project for instance: ``Key.project_id == project``."""
    return page(session, Key, *where, after=after, limit=limit, order=order)


def revoke(session: Session, who: Who, key_id: str) -> Key:
    """From the commit on it opens nothing. A second time changes nothing.

    Args:
        key_id: its id, or the characters of its secret that lists show.

    Raises:
        NotFound: there is no such key in the project of `who`, or anywhere where that is none (``unknown_key_id``).
    """
    query = select(Key).where((Key.id == key_id) | (Key.prefix == key_id))
    found = session.scalars(query if who.project_id is None else query.where(Key.project_id == who.project_id)).all()
    if len(found) != 1:
        raise NotFound(f"There is no key {key_id!r}.", remedy="`luthier keys list` shows them all.", code="unknown_key_id")
    (key,) = found
    if key.revoked_at is None:
        key.revoked_at = time.time()
        audit.record(session, who, "key.revoke", key.id)
    return key


_ANOTHER = "Use another key; `luthier keys create` makes one on the machine that holds the database."


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
