"""Organisations, their projects, users, and who is what where."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from luthier.core.errors import NotFound, SpecError, did_you_mean
from luthier.security import keys
from luthier.security.keys import NewKey
from luthier.security.roles import Role
from luthier.store import audit, ids
from luthier.store.audit import LOCAL, Deputy, Who
from luthier.store.database import Database, exclusive
from luthier.store.tables.tenants import Membership, Organisation, Project, User

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
"""Of organisations, projects and users. No colon: the name of an organisation stands in ``ft:base:organisation:suffix:id``."""

DEFAULT = "default"
"""The organisation and the project that are there from the first start."""

OWNER = "owner"
"""The user that is."""

Named = TypeVar("Named", Organisation, Project, User)


def first_start(database: Database) -> NewKey | None:
    """Where there is no organisation yet: one, a project, a user that owns both, and a key, to be shown once. Nothing otherwise."""
    with database.write() as session:
        if (found := settle(session)) is None:
            return None
        project, user = found
        who = Deputy(LOCAL.name, project.organisation_id, project.id)
        return keys.create(session, who, user_id=user.id, project_id=project.id, name="first")


def settle(session: Session) -> tuple[Project, User] | None:
    """The first organisation, project and owner, where there is no organisation yet; nothing otherwise."""
    exclusive(session, "first start")
    if session.scalar(select(func.count()).select_from(Organisation)):
        return None
    organisation = create_organisation(session, LOCAL, DEFAULT)
    project = create_project(session, LOCAL, organisation.id, DEFAULT)
    user = create_user(session, LOCAL, OWNER)
    set_role(session, LOCAL, user.id, organisation.id, Role.owner)
    return project, user


def create_organisation(session: Session, who: Who, name: str) -> Organisation:
    """The outermost wall; empty at first.

    Raises:
        SpecError: the name cannot be taken, or is taken.
    """
    _free(session, Organisation, name)
    made = Organisation(id=ids.new("org-"), created_at=time.time(), name=name)
    return _made(session, who, "organisation.create", made)


def create_project(session: Session, who: Who, organisation_id: str, name: str) -> Project:
    """A room of an organisation.

    Raises:
        SpecError: the name cannot be taken, or is taken there.
    """
    _free(session, Project, name, Project.organisation_id == organisation_id)
    made = Project(id=ids.new("proj_"), created_at=time.time(), organisation_id=organisation_id, name=name)
    return _made(session, who, "project.create", made)


def archive_project(session: Session, who: Who, project_id: str) -> Project:
    """From the commit on its keys open nothing; what is in it stays."""
    project = session.scalars(select(Project).where(Project.id == project_id)).one()
    project.archived_at = project.archived_at or time.time()
    audit.record(session, who, "project.archive", project.id)
    return project


def create_user(session: Session, who: Who, name: str) -> User:
    """A person or a program, member of nothing yet.

    Raises:
        SpecError: the name cannot be taken, or is taken.
    """
    _free(session, User, name)
    return _made(session, who, "user.create", User(id=ids.new("user-"), created_at=time.time(), name=name))


def set_role(session: Session, who: Who, user_id: str, organisation_id: str, role: Role, *, project_id: str = "") -> None:
    """Make a user a member, or change what they are: in the whole organisation, or in one project of it."""
    membership = session.get(Membership, (user_id, organisation_id, project_id))
    if membership is None:
        membership = Membership(user_id=user_id, organisation_id=organisation_id, project_id=project_id)
        session.add(membership)
    membership.role = role.name
    audit.record(session, who, "membership.set", user_id, organisation=organisation_id, project=project_id, role=role.name)


def remove_role(session: Session, who: Who, user_id: str, organisation_id: str, *, project_id: str = "") -> None:
    """End a membership. The user's keys stay and may nothing any more."""
    membership = session.get(Membership, (user_id, organisation_id, project_id))
    if membership is not None:
        session.delete(membership)
        audit.record(session, who, "membership.remove", user_id, organisation=organisation_id, project=project_id)


def named(session: Session, table: type[Named], name: str, *where: Any) -> Named:
    """The organisation, project or user with this name or id.

    Raises:
        NotFound: there is none (``unknown_tenant``).
    """
    found = session.scalar(select(table).where((table.name == name) | (table.id == name), *where))
    if found is None:
        known = session.scalars(select(table.name).where(*where)).all()
        noun = table.__name__.lower()
        raise NotFound(f"There is no {noun} {name!r}.", remedy=did_you_mean(name, known), code="unknown_tenant")
    return found


def every(session: Session, table: type[Named], *where: Any) -> Sequence[Named]:
    """All organisations, projects or users, oldest first; there are few."""
    return session.scalars(select(table).where(*where).order_by(table.n)).all()


def _free(session: Session, table: type[Named], name: str, *where: Any) -> None:
    if not NAME.fullmatch(name):
        remedy = "Take small letters, digits, '.', '_' and '-', at most 128, beginning with a letter or digit."
        raise SpecError(f"{name!r} cannot be a name.", where="name", remedy=remedy, code="bad_name")
    if session.scalar(select(table.id).where(table.name == name, *where)):
        raise SpecError(
            f"There is a {table.__name__.lower()} {name!r} already.", where="name", remedy="Take another name.", code="name_taken"
        )


def _made(session: Session, who: Who, action: str, made: Named) -> Named:
    session.add(made)
    audit.record(session, who, action, made.id, name=made.name)
    return made
