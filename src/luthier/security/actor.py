"""Who asks: the key behind a secret, its user, and what that user is where the key acts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from luthier.core.errors import Unauthenticated
from luthier.security import keys
from luthier.security.limits import Limits
from luthier.security.roles import Role
from luthier.store.database import Database
from luthier.store.tables.tenants import Key, Membership, Organisation, Project


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who acts in a project, as authorize(), the audit and the limits want to know them.

    Attributes:
        name: id of the key. role: the higher one of those in the project and in the organisation; none: a stranger there.
        organisation_role: that in the organisation alone. scopes: what the key may do of what its user may; empty is all of it.
        organisation: name of the organisation, as it stands in the names of tuned models.
    """

    name: str
    user_id: str
    organisation_id: str
    organisation: str
    project_id: str
    role: Role | None
    organisation_role: Role | None
    scopes: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    used_at: float | None = None


def actor_of(session: Session, secret: str, *, organisation: str = "", project: str = "", defaults: Limits | None = None) -> Actor:
    """The actor behind a request.

    Args:
        secret: what came as ``Authorization: Bearer``.
        organisation, project: the headers ``OpenAI-Organization`` and ``OpenAI-Project``, an id or a name each; empty where absent. They
            must fit the key: a key opens one project.
        defaults: limits of the service, of which the key's own take the place.

    Raises:
        Unauthenticated: no such key, revoked, expired, its project archived, or a header that names another place.
    """
    key = keys.find(session, secret)
    place = session.execute(
        select(Project, Organisation).join(Organisation, Organisation.id == Project.organisation_id).where(Project.id == key.project_id)
    ).one()
    home, owner = place
    if home.archived_at is not None:
        raise Unauthenticated("The key's project is archived.", remedy="Use a key of another project.", code="archived_project")
    if organisation not in ("", owner.id, owner.name):
        raise _elsewhere("OpenAI-Organization", organisation, code="wrong_organisation")
    if project not in ("", home.id, home.name):
        raise _elsewhere("OpenAI-Project", project, code="wrong_project")
    in_organisation, in_project = _roles(session, key.user_id, owner.id, home.id)
    return Actor(
        name=key.id,
        user_id=key.user_id,
        organisation_id=owner.id,
        organisation=owner.name,
        project_id=home.id,
        role=max((role for role in (in_organisation, in_project) if role), default=None),
        organisation_role=in_organisation,
        scopes=tuple(key.scopes),
        limits=(defaults or Limits()).changed(key.limits),
        used_at=key.used_at,
    )


def note_use(database: Database, actor: Actor, *, every: float = 60.0) -> None:
    """Remember when the key was used last, to `every` seconds: a write for each request would be the dearest part of most."""
    now = time.time()
    if actor.used_at is not None and now - actor.used_at < every:
        return
    with database.write() as session:
        key = session.scalar(select(Key).where(Key.id == actor.name))
        if key is not None and (key.used_at or 0.0) < now - every:
            key.used_at = now


def _elsewhere(header: str, said: str, *, code: str) -> Unauthenticated:
    remedy = "Leave the header out, or use a key of that place."
    return Unauthenticated(f"The key does not belong to {said!r}.", where=header, remedy=remedy, code=code)


def _roles(session: Session, user_id: str, organisation_id: str, project_id: str) -> tuple[Role | None, Role | None]:
    rows = session.execute(
        select(Membership.project_id, Membership.role).where(
            Membership.user_id == user_id,
            Membership.organisation_id == organisation_id,
            Membership.project_id.in_(("", project_id)),
        )
    )
    found = {row.project_id: Role.of(row.role) for row in rows}
    return found.get(""), found.get(project_id)
