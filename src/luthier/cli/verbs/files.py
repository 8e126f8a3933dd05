"""Files of the service: upload, list, show, content, report, delete."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.answer import answer, table
from luthier.cli.verbs._place import BlobsUrl, Json, Place, Project, Url, placed, uploaded

if TYPE_CHECKING:
    from luthier.store.tables.files import File

DAY = 86_400

app = typer.Typer(help="Files of the service: upload, list, show, content, report, delete.", no_args_is_help=True, add_completion=False)

Id = Annotated[str, typer.Argument(help="Id of the file: file-...")]


@app.command()
def upload(
    path: Annotated[Path, typer.Argument(help="A file of this machine.", exists=True, dir_okay=False)],
    purpose: Annotated[str, typer.Option(help="fine-tune, batch, user_data, assistants, vision or evals.")] = "fine-tune",
    days: Annotated[float | None, typer.Option(help="Days until it goes by itself; left out: never.")] = None,
    project: Project = "default",
    database: Url = "",
    blobs: BlobsUrl = "",
    json: Json = False,
) -> None:
    """Put a file where the service keeps files. A file for fine-tune is looked at by the service that runs; see its report."""
    from luthier.store.blobs import Blobs

    with placed(database, project) as place:
        keep = None if days is None else days * DAY
        file = uploaded(place, path, blobs=Blobs.open(place.database, blobs), purpose=purpose, expires_after=keep)
    answer(_facts(file), json=json, show=lambda: typer.echo(f"{file.id}\n\nNext:  luthier jobs create {file.id}"))


@app.command("list")
def list_(
    purpose: Annotated[str, typer.Option(help="Only files of this purpose.")] = "",
    limit: Annotated[int, typer.Option(help="The newest so many.", min=1, max=10_000)] = 100,
    project: Project = "default",
    database: Url = "",
    json: Json = False,
) -> None:
    """Files of a project, newest first."""
    from luthier.store import files

    with placed(database, project) as place, place.database.read() as session:
        found = [_facts(file) for file in files.listed(session, place.project_id, limit=limit, purpose=purpose).rows]
    rows = [(f["id"], f["filename"], f["purpose"], f"{f['bytes']:,}", f["status"], _day(f["created_at"])) for f in found]
    answer({"files": found}, json=json, show=lambda: table(("id", "name", "purpose", "bytes", "status", "made"), rows))


@app.command()
def show(file: Id, project: Project = "default", database: Url = "", json: Json = False) -> None:
    """What is known of one file."""
    with placed(database, project) as place:
        content = _facts(_find(place, file))
    told = [(key, _day(value) if key.endswith("_at") else value) for key, value in content.items() if value is not None]
    answer(content, json=json, show=lambda: table(("what", "value"), told))


@app.command()
def content(
    file: Id,
    out: Annotated[Path | None, typer.Option(help="Write it there; left out, on standard output.")] = None,
    project: Project = "default",
    database: Url = "",
    blobs: BlobsUrl = "",
) -> None:
    """The bytes of a file."""
    from luthier.core.files import writing
    from luthier.store.blobs import Blobs

    with placed(database, project) as place:
        pieces = Blobs.open(place.database, blobs).read(_find(place, file).digest)
        if out is None:
            sys.stdout.buffer.writelines(pieces)
            return
        with writing(out) as sink:
            sink.writelines(pieces)


@app.command()
def report(file: Id, project: Project = "default", database: Url = "", json: Json = False) -> int:
    """What the check of its data found; exit code 1 when it does not pass."""
    with placed(database, project) as place:
        found = _find(place, file)
    said = found.report or {}
    content = {"id": found.id, "status": found.status, "ok": said.get("ok"), "report": found.report}
    answer(content, json=json, show=lambda: _show(found.status, said))
    return 0 if said.get("ok", found.status == "processed") else 1


@app.command()
def delete(file: Id, project: Project = "default", database: Url = "", blobs: BlobsUrl = "", json: Json = False) -> None:
    """Delete a file and its bytes. Jobs that read it already are not disturbed."""
    from luthier.store import files
    from luthier.store.blobs import Blobs

    with placed(database, project) as place, place.database.write() as session:
        files.delete(session, place.who, Blobs.open(place.database, blobs), file)
    answer({"id": file, "deleted": True}, json=json, show=lambda: typer.echo(f"{file} is deleted."))


def _find(place: Place, id: str) -> File:
    from luthier.store import files

    with place.database.read() as session:
        return files.get(session, place.project_id, id)


def _facts(file: File) -> dict[str, Any]:
    names = ("id", "filename", "purpose", "bytes", "status", "status_details", "created_at", "expires_at")
    return {name: getattr(file, name) for name in names}


def _show(status: str, said: dict[str, Any]) -> None:
    if not said:
        typer.echo("It was not looked at." if status == "processed" else "It was not looked at yet: the service that runs does it.")
        return
    problems = [(p["severity"], p["code"], p["row"] or "", f"{p['field']}: {p['message']}".removeprefix(": ")) for p in said["problems"]]
    if problems:
        table(("", "problem", "row", "what"), problems)
    verdict = "passes" if said["ok"] else "does not pass"
    typer.echo(f"{said.get('rows', 0):,} rows, {said['errors']:,} errors, {said.get('warnings', 0):,} warnings: the file {verdict}.")


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
