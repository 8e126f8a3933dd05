"""The audit: who did what to which thing, written in the same transaction as the deed. What cannot be audited does not happen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy.orm import Session

from luthier.core.errors import SpecError
from luthier.store import ids
from luthier.store.tables.operation import Audit


class Who(Protocol):
    """Somebody who acts: a key of a user (`security.actor.Actor`), this machine's command line, or a worker."""

    @property
    def name(self) -> str:
        """Id of the key, ``local`` for the command line, or id of the worker."""

    @property
    def organisation_id(self) -> str | None:
        """Whose organisation; none for deeds above organisations."""

    @property
    def project_id(self) -> str | None:
        """Whose project; none for deeds above projects."""


@dataclass(frozen=True, slots=True)
class Deputy:
    """Who acts where no key does: the command line, a worker, a clock."""

    name: str
    organisation_id: str | None = None
    project_id: str | None = None


LOCAL = Deputy("local")
"""The command line on the machine that holds the database."""

CLOCK = Deputy("clock")
"""The service itself, when something's time is up."""


def project_of(who: Who) -> str:
    """The project somebody acts in.

    Raises:
        SpecError: in none.
    """
    if who.project_id is None:
        raise SpecError(f"{who.name} acts in no project.", where="project", remedy="Say which one.", code="no_project")
    return who.project_id


def record(session: Session, who: Who, action: str, subject: str, *, request_id: str | None = None, **details: Any) -> None:
    """Write one row; it is kept if and only if the transaction of `session` is.

    Args:
        action: noun and verb, as in `security/authorize.py`: ``file.create``. subject: id of the thing.
        details: plain data worth knowing later; never a secret, never a prompt or an answer.
    """
    session.add(
        Audit(
            id=ids.new("audit_"),
            organisation_id=who.organisation_id,
            project_id=who.project_id,
            actor=who.name,
            action=action,
            subject=subject,
            request_id=request_id,
            details=details,
        )
    )
    session.flush()  # a row that cannot be written stops the deed here, not after its side effects
