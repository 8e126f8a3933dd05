"""Who may do what: organisations own projects, users are members of both, keys act for a user in a project."""

from __future__ import annotations

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from luthier.store.tables._base import Facts, Numbered, Table


class Organisation(Numbered, Table):
    """``org-...``: the outermost wall."""

    __tablename__ = "organisations"
    name: Mapped[str] = mapped_column(unique=True)


class Project(Numbered, Table):
    """``proj_...``: what is in one project is not there for another."""

    __tablename__ = "projects"
    __table_args__ = (UniqueConstraint("organisation_id", "name"),)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"), index=True)
    name: Mapped[str]
    archived_at: Mapped[float | None]


class User(Numbered, Table):
    """``user-...``: a person or a program."""

    __tablename__ = "users"
    name: Mapped[str] = mapped_column(unique=True)


class Membership(Table):
    """The role of a user: in an organisation where `project_id` is empty, else in that project only."""

    __tablename__ = "memberships"
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"), primary_key=True)
    project_id: Mapped[str] = mapped_column(primary_key=True, default="")
    role: Mapped[str]  # owner, admin, member, viewer


class Key(Numbered, Table):
    """``key_...``: a secret ``lk-...`` of which only the hash is kept.

    Attributes:
        prefix: the first characters of the secret, to tell keys apart. digest: SHA-256 of the whole secret, hexadecimal.
        scopes: what it may do of what its user may; empty is all of it.
        limits: ``requests_per_minute``, ``tokens_per_minute``, ``concurrent``, ``storage_bytes``, ``jobs``; what is
            absent has the service's default.
    """

    __tablename__ = "keys"
    name: Mapped[str]
    prefix: Mapped[str]
    digest: Mapped[str] = mapped_column(unique=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    scopes: Mapped[list[str]] = mapped_column(default=list)
    limits: Mapped[Facts] = mapped_column(default=dict)
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]
    used_at: Mapped[float | None]
