"""One question, one place: may this actor do that there? No unless something says yes, and always with a reason."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.core.errors import Forbidden
from luthier.security.actor import Actor
from luthier.security.roles import ACTIONS, OF_ORGANISATION, covers


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, and why, in words for the one who asked."""

    allowed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a thing is. Without a project it belongs to the organisation."""

    organisation_id: str
    project_id: str = ""


def authorize(actor: Actor, action: str, where: Place | None = None) -> Decision:
    """Whether `actor` may do `action`.

    Args:
        action: a name of `roles.ACTIONS`; another one is refused. where: place of the thing; the actor's own where absent.
    """
    least = ACTIONS.get(action)
    if least is None:
        return Decision(False, f"there is no action {action!r}")
    if where is not None and where.organisation_id != actor.organisation_id:
        return Decision(False, "it belongs to another organisation")
    if where is not None and where.project_id not in ("", actor.project_id):
        return Decision(False, "it belongs to another project")
    if not covers(actor.scopes, action):
        return Decision(False, f"the key is made for {', '.join(actor.scopes)} only")
    above = action.startswith(OF_ORGANISATION)
    role, place = (actor.organisation_role, "organisation") if above else (actor.role, "project")
    if role is None:
        return Decision(False, f"the key's user is not a member of this {place}")
    if role < least:
        return Decision(False, f"it takes the role {least.name} in the {place}, and the key's user is {role.name}")
    return Decision(True, f"the key's user is {role.name} in the {place}, and {least.name} is enough")


def require(actor: Actor, action: str, where: Place | None = None) -> None:
    """`authorize`, for those who go on only if it may be done.

    Raises:
        Forbidden: it may not; the message has the reason.
    """
    decision = authorize(actor, action, where)
    if not decision.allowed:
        raise Forbidden(f"{action} is not allowed: {decision.reason}.", remedy="Ask an admin for a role or a key that may.")
