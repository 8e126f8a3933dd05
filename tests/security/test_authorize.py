"""One question, one place: deny by default, and always a reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from luthier.core.errors import Forbidden
from luthier.security import roles, tenants
from luthier.security.actor import actor_of
from luthier.security.authorize import Place, authorize, require
from luthier.security.roles import ACTIONS, OF_ORGANISATION, Role
from luthier.store.audit import LOCAL
from security.town import Town

SOURCE = Path(__file__).parents[2] / "src" / "luthier"


@pytest.mark.parametrize("role", Role)
def test_each_role_may_what_the_table_says_and_no_more(town: Town, role: Role) -> None:
    actor = town.actor(town.ours, role, in_organisation=True)
    allowed = {action for action in ACTIONS if authorize(actor, action).allowed}
    assert allowed == {action for action, least in ACTIONS.items() if least <= role}


def test_a_role_in_a_project_says_nothing_about_the_organisation(town: Town) -> None:
    actor = town.actor(town.ours, Role.owner)
    assert {action for action in ACTIONS if not authorize(actor, action).allowed} == {
        action for action in ACTIONS if action.startswith(OF_ORGANISATION)
    }
    assert authorize(actor, "user.create").reason == "the key's user is not a member of this organisation"


def test_the_higher_role_counts(town: Town) -> None:
    made = town.key(town.ours, Role.viewer)
    with town.database.write() as session:
        tenants.set_role(session, LOCAL, made.key.user_id, str(town.ours.organisation_id), Role.admin)
    with town.database.read() as session:
        actor = actor_of(session, made.secret)
    assert (actor.role, actor.organisation_role) == (Role.admin, Role.admin)
    assert authorize(actor, "file.create").allowed


def test_a_stranger_may_nothing(town: Town) -> None:
    actor = town.actor(town.ours, None)
    assert not any(authorize(actor, action).allowed for action in ACTIONS)
    assert authorize(actor, "file.read").reason == "the key's user is not a member of this project"


def test_scopes_narrow_and_never_widen(town: Town) -> None:
    actor = town.actor(town.ours, Role.viewer, scopes=["file.*", "*.read"])
    assert authorize(actor, "file.read").allowed and authorize(actor, "job.read").allowed
    assert authorize(actor, "file.create").reason == "it takes the role member in the project, and the key's user is viewer"
    narrow = town.actor(town.ours, Role.owner, scopes=["chat.create"])
    assert authorize(narrow, "file.read").reason == "the key is made for chat.create only"
    assert authorize(narrow, "chat.create").reason == "the key's user is owner in the project, and member is enough"


def test_elsewhere_is_elsewhere(town: Town) -> None:
    actor = town.actor(town.ours, Role.owner, in_organisation=True)
    assert authorize(actor, "file.read", Place(actor.organisation_id, actor.project_id)).allowed
    assert authorize(actor, "project.create", Place(actor.organisation_id)).allowed
    beside = authorize(actor, "file.read", Place(str(town.beside.organisation_id), str(town.beside.project_id)))
    theirs = authorize(actor, "file.read", Place(str(town.theirs.organisation_id), str(town.theirs.project_id)))
    assert (beside.allowed, beside.reason) == (False, "it belongs to another project")
    assert (theirs.allowed, theirs.reason) == (False, "it belongs to another organisation")


@pytest.mark.parametrize("action", ["", "file", "file.*", "file.explode", "FILE.READ"])
def test_what_is_not_in_the_table_may_nobody(town: Town, action: str) -> None:
    decision = authorize(town.actor(town.ours, Role.owner, in_organisation=True), action)
    assert not decision.allowed and decision.reason == f"there is no action {action!r}"


def test_the_reason_reaches_the_one_who_asked(town: Town) -> None:
    actor = town.actor(town.ours, Role.viewer)
    require(actor, "file.read")
    with pytest.raises(Forbidden, match=r"file\.create is not allowed: it takes the role member in the project") as raised:
        require(actor, "file.create")
    assert raised.value.code == "forbidden" and raised.value.exit_code == 2


def test_audited_deeds_are_actions() -> None:
    """What the audit calls a deed is what authorize() calls it, but for what nobody asks for by itself."""
    said = {word for path in SOURCE.rglob("*.py") for word in re.findall(r'\brecord\([^"]*"([a-z]+\.[a-z]+)"', path.read_text())}
    assert said - set(ACTIONS) <= {"file.expire", "upload.expire", "organisation.create", "chat.store"}
    assert {"file.create", "upload.complete", "key.revoke"} <= said


def test_roles_are_known_by_name() -> None:
    assert Role.of("admin") is Role.admin
    with pytest.raises(roles.SpecError, match=r"There is no role 'amdin'\. Did you mean admin\?") as raised:
        Role.of("amdin")
    assert raised.value.code == "bad_role"
