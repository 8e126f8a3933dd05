"""Organisations, projects, users and keys to try things on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from luthier.security import keys, tenants
from luthier.security.actor import Actor, actor_of
from luthier.security.roles import Role
from luthier.store.audit import LOCAL, Deputy
from luthier.store.database import Database
from luthier.store.tables.tenants import User


@dataclass
class Town:
    """Two projects of one organisation, and one of another; who acts there is the command line."""

    database: Database
    ours: Deputy
    beside: Deputy
    theirs: Deputy

    def key(self, where: Deputy, role: Role | None, *, in_organisation: bool = False, **how: Any) -> keys.NewKey:
        """A key of a new user who has `role` there, in the project or in the whole organisation."""
        with self.database.write() as session:
            user = tenants.create_user(session, LOCAL, f"user-{len(tenants.every(session, User))}")
            if role is not None:
                project = "" if in_organisation else str(where.project_id)
                tenants.set_role(session, LOCAL, user.id, str(where.organisation_id), role, project_id=project)
            return keys.create(session, where, user_id=user.id, project_id=str(where.project_id), name="a key", **how)

    def actor(self, where: Deputy, role: Role | None, *, in_organisation: bool = False, **how: Any) -> Actor:
        """Who stands behind such a key."""
        secret = self.key(where, role, in_organisation=in_organisation, **how).secret
        with self.database.read() as session:
            return actor_of(session, secret)
