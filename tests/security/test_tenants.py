"""Organisations, projects, users: the first start, names, headers."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import select

from luthier.core.errors import NotFound, SpecError, Unauthenticated
from luthier.security import tenants
from luthier.security.actor import actor_of
from luthier.security.keys import NewKey
from luthier.security.roles import Role
from luthier.store.audit import LOCAL
from luthier.store.database import Database
from luthier.store.tables.operation import Audit
from luthier.store.tables.tenants import Organisation, Project, User
from security.town import Town


def test_the_first_start_makes_a_key_that_opens_all_and_no_second_one(database: Database) -> None:
    made = tenants.first_start(database)
    assert made is not None
    with database.read() as session:
        actor = actor_of(session, made.secret, organisation="default", project="default")
    assert (actor.role, actor.organisation_role, actor.organisation, actor.scopes) == (Role.owner, Role.owner, "default", ())
    assert tenants.first_start(database) is None
    with database.read() as session:
        actions = list(session.scalars(select(Audit.action).order_by(Audit.n)))
    assert actions == ["organisation.create", "project.create", "user.create", "membership.set", "key.create"]


def test_of_many_first_starts_at_once_one_is_first(database: Database) -> None:
    made: list[NewKey | None] = []
    threads = [threading.Thread(target=lambda: made.append(tenants.first_start(database))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and sum(key is not None for key in made) == 1


@pytest.mark.parametrize("name", ["", "A", "-x", "a b", "a:b", "a/b", "x" * 129, "a\n"])
def test_names_that_cannot_be(database: Database, name: str) -> None:
    with pytest.raises(SpecError, match="cannot be a name") as raised, database.write() as session:
        tenants.create_organisation(session, LOCAL, name)
    assert raised.value.code == "bad_name"


def test_a_name_is_taken_once_in_its_place(town: Town) -> None:
    with town.database.write() as session:
        tenants.create_project(session, LOCAL, str(town.theirs.organisation_id), "lab")
    for make in (
        lambda session: tenants.create_organisation(session, LOCAL, "ours"),
        lambda session: tenants.create_project(session, LOCAL, str(town.ours.organisation_id), "lab"),
    ):
        with pytest.raises(SpecError, match="already") as raised, town.database.write() as session:
            make(session)
        assert raised.value.code == "name_taken"


def test_things_are_found_by_name_and_id(town: Town) -> None:
    with town.database.read() as session:
        here = tenants.named(session, Organisation, "ours")
        assert tenants.named(session, Organisation, here.id) is here
        assert tenants.named(session, Project, "desk", Project.organisation_id == here.id).id == town.ours.project_id
        assert [one.name for one in tenants.every(session, Project, Project.organisation_id == here.id)] == ["desk", "lab"]
        with pytest.raises(NotFound, match=r"There is no organisation 'our'\. Did you mean ours\?") as raised:
            tenants.named(session, Organisation, "our")
        assert raised.value.code == "unknown_tenant"
        assert tenants.every(session, User) == []


@pytest.mark.parametrize("header", ["organisation", "project"])
def test_headers_must_fit_the_key(town: Town, header: str) -> None:
    secret = town.key(town.ours, Role.member).secret
    good = {"organisation": ("ours", town.ours.organisation_id), "project": ("desk", town.ours.project_id)}[header]
    wrong = {"organisation": ("theirs", town.theirs.organisation_id), "project": ("lab", town.beside.project_id, town.theirs.project_id)}[
        header
    ]
    for value in good:
        with town.database.read() as session:
            assert actor_of(session, secret, **{header: value}).project_id == town.ours.project_id  # type: ignore[arg-type]
    for value in (*wrong, "nothing"):
        with pytest.raises(Unauthenticated, match="The key does not belong to") as raised, town.database.read() as session:
            actor_of(session, secret, **{header: value})  # type: ignore[arg-type]
        assert raised.value.code == f"wrong_{header}" and raised.value.where.startswith("OpenAI-")


def test_keys_of_an_archived_project_open_nothing(town: Town) -> None:
    secret = town.key(town.ours, Role.owner).secret
    with town.database.write() as session:
        tenants.archive_project(session, LOCAL, str(town.ours.project_id))
    with pytest.raises(Unauthenticated, match="The key's project is archived") as raised, town.database.read() as session:
        actor_of(session, secret)
    assert raised.value.code == "archived_project"


def test_a_membership_ends(town: Town) -> None:
    made = town.key(town.ours, Role.owner)
    with town.database.write() as session:
        tenants.remove_role(session, LOCAL, made.key.user_id, str(town.ours.organisation_id), project_id=str(town.ours.project_id))
        tenants.remove_role(session, LOCAL, made.key.user_id, str(town.ours.organisation_id))
    with town.database.read() as session:
        assert actor_of(session, made.secret).role is None
