"""The service's database: where it is, whether its tables fit, and bringing them forward."""

from __future__ import annotations

from typing import Any

import typer

from luthier.cli.answer import answer
from luthier.cli.verbs._place import Json, Url

app = typer.Typer(
    help="The service's database: where it is, and whether its tables fit.", invoke_without_command=True, add_completion=False
)


@app.callback()
def look(context: typer.Context, database: Url = "", json: Json = False) -> None:
    """Say where the database is and whether its tables are those of this version. Nothing is changed."""
    if context.invoked_subcommand is None:
        content = _state(database)
        answer(content, json=json, show=lambda: _show(content))


@app.command()
def upgrade(database: Url = "", json: Json = False) -> None:
    """Make the tables, or bring them forward. Of SQLite's file a copy is kept beside it; of PostgreSQL you have made one before."""
    from luthier.store.database import Database, default_url
    from luthier.store.upgrade import upgrade as forward

    opened = Database.connect(database or default_url())
    try:
        forward(opened)
    finally:
        opened.close()
    content = _state(database)
    answer(content, json=json, show=lambda: _show(content))


def _state(url: str) -> dict[str, Any]:
    from luthier.store.database import Database, default_url
    from luthier.store.upgrade import heads, revision

    database = Database.connect(url or default_url())
    try:
        if database.is_sqlite and not database.file.exists():
            return {"place": database.place, "tables": "", "wanted": heads(), "bytes": 0}
        size = database.file.stat().st_size if database.is_sqlite else None
        return {"place": database.place, "tables": revision(database), "wanted": heads(), "bytes": size}
    finally:
        database.close()


def _show(content: dict[str, Any]) -> None:
    typer.echo(f"  place    {content['place']}")
    if content["bytes"]:
        typer.echo(f"  bytes    {content['bytes']:,}")
    if not content["tables"]:
        typer.echo("  tables   none yet; `luthier serve` or `luthier database upgrade` makes them")
    elif content["tables"] == content["wanted"]:
        typer.echo(f"  tables   at step {content['tables']}, as this version wants them")
    else:
        typer.echo(f"  tables   at step {content['tables']}; this version wants step {content['wanted']}")
