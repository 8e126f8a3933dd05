"""What may be done, and the least role for it: the one table. What is not in it may not be done.

    viewer   sees               member   works: files, jobs, answers
    admin    keys, members      owner    gives away ownership

Nouns and verbs are those of the audit.
"""

from __future__ import annotations

from enum import IntEnum
from fnmatch import fnmatchcase

from luthier.core.errors import SpecError, did_you_mean


class Role(IntEnum):
    """Each may what those before it may."""

    viewer = 1
    member = 2
    admin = 3
    owner = 4

    @classmethod
    def of(cls, name: str) -> Role:
        """The role called `name`.

        Raises:
            SpecError: there is none (``bad_role``).
        """
        if name not in cls.__members__:
            remedy = did_you_mean(name, cls.__members__)
            raise SpecError(f"There is no role {name!r}.", where="role", remedy=remedy, code="bad_role")
        return cls[name]


ACTIONS: dict[str, Role] = {
    "file.read": Role.viewer,
    "file.create": Role.member,
    "file.delete": Role.member,
    "upload.create": Role.member,
    "upload.part": Role.member,
    "upload.complete": Role.member,
    "upload.cancel": Role.member,
    "job.read": Role.viewer,
    "job.forecast": Role.member,
    "job.create": Role.member,
    "job.cancel": Role.member,
    "job.pause": Role.member,
    "job.resume": Role.member,
    "grader.validate": Role.viewer,
    "grader.run": Role.viewer,
    "permission.read": Role.admin,
    "permission.create": Role.admin,
    "permission.delete": Role.admin,
    "model.read": Role.viewer,
    "model.pin": Role.admin,
    "model.delete": Role.admin,
    "chat.create": Role.member,
    "chat.read": Role.viewer,
    "chat.update": Role.member,
    "chat.delete": Role.member,
    "completion.create": Role.member,
    "embedding.create": Role.member,
    "batch.read": Role.viewer,
    "batch.create": Role.member,
    "batch.cancel": Role.member,
    "webhook.read": Role.admin,
    "webhook.create": Role.admin,
    "webhook.delete": Role.admin,
    "key.read": Role.admin,
    "key.create": Role.admin,
    "key.revoke": Role.admin,
    "audit.read": Role.admin,
    "metrics.read": Role.viewer,
    "organisation.read": Role.viewer,
    "project.read": Role.viewer,
    "project.create": Role.admin,
    "project.archive": Role.admin,
    "user.read": Role.admin,
    "user.create": Role.admin,
    "membership.set": Role.admin,
    "membership.remove": Role.admin,
}

OF_ORGANISATION = ("organisation.", "project.", "user.", "membership.")
"""Actions for which the role in the organisation counts, not that in a project."""


def check_scopes(scopes: list[str]) -> None:
    """Each scope is an action or a pattern of some: ``file.*``, ``*.read``.

    Raises:
        SpecError: one covers no action, so nobody can have meant it (``bad_scope``).
    """
    for scope in scopes:
        if not any(fnmatchcase(action, scope) for action in ACTIONS):
            remedy = did_you_mean(scope, ACTIONS)
            raise SpecError(f"The scope {scope!r} covers no action.", where="scopes", remedy=remedy, code="bad_scope")


def covers(scopes: tuple[str, ...], action: str) -> bool:
    """Whether one of `scopes` covers `action`; no scopes are all of them."""
    return not scopes or any(fnmatchcase(action, scope) for scope in scopes)
