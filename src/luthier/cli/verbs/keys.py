"""Keys of the service: make, list, revoke."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.answer import answer, table
from luthier.cli.verbs._place import Json, Url, ready

if TYPE_CHECKING:
    from luthier.store.tables.tenants import Key

DAY = 86_400

app = typer.Typer(help="Keys of the service: make, list, revoke.", no_args_is_help=True, add_completion=False)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for, to tell it apart.")],
    user: Annotated[str, typer.Option("--user", help="Whom it acts for: name or id.")] = "owner",
    organisation: Annotated[str, typer.Option("--organisation", help="Name or id.")] = "default",
    project: Annotated[str, typer.Option("--project", help="Name or id. A key opens one project.")] = "default",
    scope: Annotated[list[str] | None, typer.Option("--scope", help="Only this: file.read, 'job.*'. Again for more.")] = None,
    limit: Annotated[list[str] | None, typer.Option("--limit", help="requests_per_minute=60. Again for more.")] = None,
    days: Annotated[float | None, typer.Option("--days", help="Days until it opens nothing any more; left out: never.")] = None,
    database: Url = "",
    json: Json = False,
) -> None:
    """Make a key. The secret is shown now and never again."""
    from luthier.security import keys, tenants
    from luthier.store.audit import Deputy
    from luthier.store.tables.tenants import Organisation, Project, User

    limits = dict(_limit(one) for one in limit or [])
    with ready(database) as opened, opened.write() as session:
        home = tenants.named(session, Organisation, organisation)
        room = tenants.named(session, Project, project, Project.organisation_id == home.id)
        acting = tenants.named(session, User, user)
        expires = None if days is None else days * DAY
        who = Deputy("local", home.id, room.id)
        made = keys.create(
            session, who, user_id=acting.id, project_id=room.id, name=name, scopes=scope or [], limits=limits, expires_after=expires
        )
    content = _facts(made.key) | {"secret": made.secret}
    answer(content, json=json, show=lambda: typer.echo(f"{made.secret}\n\nKeep it, it is not shown again. Its id is {made.key.id}."))


@app.command("list")
def list_(database: Url = "", json: Json = False) -> None:
    """All keys, without their secrets."""
    from luthier.security import keys
    from luthier.store.pages import MOST

    with ready(database) as opened, opened.read() as session:
        found = [_facts(key) for key in keys.listed(session, limit=MOST).rows]
    columns = ("id", "begins", "name", "user", "project", "scopes", "state", "last used")
    answer({"keys": found}, json=json, show=lambda: table(columns, [_row(key) for key in found]))


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="Its id, or the characters it begins with.")], database: Url = "", json: Json = False
) -> None:
    """From now on the key opens nothing."""
    from luthier.security import keys
    from luthier.store.audit import LOCAL

    with ready(database) as opened, opened.write() as session:
        content = _facts(keys.revoke(session, LOCAL, key))
    answer(content, json=json, show=lambda: typer.echo(f"{content['id']} ({content['prefix']}...) opens nothing any more."))


def _limit(one: str) -> tuple[str, int]:
    name, _, number = one.partition("=")
    if not number.isdigit():
        raise typer.BadParameter("say it as requests_per_minute=60", param_hint="--limit")
    return name, int(number)


def _facts(key: Key) -> dict[str, Any]:
    names = ("id", "prefix", "name", "user_id", "project_id", "scopes", "limits", "created_at", "expires_at", "revoked_at", "used_at")
    return {name: getattr(key, name) for name in names}


def _row(key: dict[str, Any]) -> tuple[str, ...]:
    over = key["expires_at"] is not None and key["expires_at"] <= time.time()
    state = "revoked" if key["revoked_at"] else "expired" if over else f"until {_day(key['expires_at'])}" if key["expires_at"] else "open"
    scopes, used = ", ".join(key["scopes"]) or "all", _day(key["used_at"]) if key["used_at"] else "never"
    return key["id"], f"{key['prefix']}...", key["name"], key["user_id"], key["project_id"], scopes, state, used


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
