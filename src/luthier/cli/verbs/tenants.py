"""Organisations, projects and users of the service, and who is what where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.answer import answer, table
from luthier.cli.verbs._place import Json, Url, ready

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

app = typer.Typer(
    help="Organisations, projects and users of the service, and who is what where.", no_args_is_help=True, add_completion=False
)

Within = Annotated[str, typer.Option("--organisation", help="Name or id.")]


@app.command("list")
def list_(database: Url = "", json: Json = False) -> None:
    """All organisations with their projects, and all users with their roles."""
    with ready(database) as opened, opened.read() as session:
        content = _everybody(session)
    answer(content, json=json, show=lambda: _show(content))


@app.command()
def organisation(name: Annotated[str, typer.Argument(help="Of the new one.")], database: Url = "", json: Json = False) -> None:
    """Make an organisation: what is in one is not there for another."""
    from luthier.security import tenants
    from luthier.store.audit import LOCAL

    with ready(database) as opened, opened.write() as session:
        made = tenants.create_organisation(session, LOCAL, name)
    answer({"id": made.id, "name": made.name}, json=json, show=lambda: typer.echo(made.id))


@app.command()
def project(
    name: Annotated[str, typer.Argument(help="Of the new one, or of the one to archive.")],
    organisation: Within = "default",
    archive: Annotated[bool, typer.Option("--archive", help="Its keys open nothing any more; what is in it is kept.")] = False,
    database: Url = "",
    json: Json = False,
) -> None:
    """Make a project in an organisation, or archive it."""
    from luthier.security import tenants
    from luthier.store.audit import LOCAL
    from luthier.store.tables.tenants import Organisation, Project

    with ready(database) as opened, opened.write() as session:
        home = tenants.named(session, Organisation, organisation)
        if archive:
            room = tenants.named(session, Project, name, Project.organisation_id == home.id)
            tenants.archive_project(session, LOCAL, room.id)
        else:
            room = tenants.create_project(session, LOCAL, home.id, name)
    answer({"id": room.id, "name": room.name, "archived_at": room.archived_at}, json=json, show=lambda: typer.echo(room.id))


@app.command()
def user(
    name: Annotated[str, typer.Argument(help="Of a new one, or of one that is there.")],
    role: Annotated[str, typer.Option("--role", help="viewer, member, admin, owner, or none to end the membership.")] = "member",
    organisation: Within = "default",
    project: Annotated[str, typer.Option("--project", help="The role is for this project only; left out: for all of them.")] = "",
    database: Url = "",
    json: Json = False,
) -> None:
    """Make a user, or change what they are."""
    from luthier.security import tenants
    from luthier.security.roles import Role
    from luthier.store.audit import LOCAL
    from luthier.store.tables.tenants import Organisation, Project, User

    with ready(database) as opened, opened.write() as session:
        home = tenants.named(session, Organisation, organisation)
        room = tenants.named(session, Project, project, Project.organisation_id == home.id).id if project else ""
        there = {found.name: found for found in tenants.every(session, User)} | {found.id: found for found in tenants.every(session, User)}
        who = there.get(name) or tenants.create_user(session, LOCAL, name)
        if role == "none":
            tenants.remove_role(session, LOCAL, who.id, home.id, project_id=room)
        else:
            tenants.set_role(session, LOCAL, who.id, home.id, Role.of(role), project_id=room)
    answer({"id": who.id, "name": who.name, "role": role}, json=json, show=lambda: typer.echo(who.id))


def _everybody(session: Session) -> dict[str, Any]:
    from sqlalchemy import select

    from luthier.security import tenants
    from luthier.store.tables.tenants import Membership, Organisation, Project, User

    return {
        "organisations": [{"id": one.id, "name": one.name} for one in tenants.every(session, Organisation)],
        "projects": [
            {"id": one.id, "name": one.name, "organisation_id": one.organisation_id, "archived_at": one.archived_at}
            for one in tenants.every(session, Project)
        ],
        "users": [{"id": one.id, "name": one.name} for one in tenants.every(session, User)],
        "memberships": [
            {"user_id": one.user_id, "organisation_id": one.organisation_id, "project_id": one.project_id, "role": one.role}
            for one in session.scalars(select(Membership))
        ],
    }


def _show(content: dict[str, Any]) -> None:
    names = {one["id"]: one["name"] for kind in ("organisations", "projects", "users") for one in content[kind]}
    rooms = [
        (names[one["organisation_id"]], one["name"], one["id"], "archived" if one["archived_at"] else "") for one in content["projects"]
    ]
    table(("organisation", "project", "id", ""), rooms)
    members = [
        (names[one["user_id"]], one["role"], names[one["organisation_id"]], names.get(one["project_id"], "all projects"))
        for one in content["memberships"]
    ]
    table(("user", "role", "in", "of"), members)
