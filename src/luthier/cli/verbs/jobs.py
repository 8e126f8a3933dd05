"""Jobs of the service: make, list, follow, cancel, pause, resume."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.answer import answer, table
from luthier.cli.verbs._place import Json, Place, Project, Url, placed, uploaded

if TYPE_CHECKING:
    from luthier.store.tables.jobs import Job, JobEvent

app = typer.Typer(
    help="Jobs of the service: make, list, follow, cancel, pause, resume. A worker does them: luthier worker.",
    no_args_is_help=True,
    add_completion=False,
)

Id = Annotated[str, typer.Argument(help="Id of the job: ftjob-...")]


@app.command()
def create(
    file: Annotated[str, typer.Argument(help="The examples: a file, or the id of one that was uploaded.")],
    model: Annotated[str, typer.Option(help="A name from `luthier models`.")] = "luthier-mini",
    valid: Annotated[str, typer.Option(help="Held-out rows: a file or an id; left out, a share of the examples.")] = "",
    suffix: Annotated[str, typer.Option(help="A word for the model's name.")] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. method.rank=8; may be repeated.")] = None,
    project: Project = "default",
    database: Url = "",
    json: Json = False,
) -> None:
    """Put a job into the queue. Nothing runs before a worker takes it."""
    from luthier.jobs import specs
    from luthier.jobs.asked import NewJob
    from luthier.jobs.submit import submit

    with placed(database, project) as place:
        body = {"model": model, "training_file": _file(place, file), "luthier": specs.said(settings or ())}
        body |= {"validation_file": _file(place, valid)} if valid else {}
        body |= {"suffix": suffix} if suffix else {}
        job = submit(place.database, NewJob.read(body), place.who)
        content = _facts(job)
    answer(content, json=json, show=lambda: typer.echo(f"{job.id}\n\nNext:  luthier jobs events {job.id} --follow"))


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 20,
    project: Project = "default",
    database: Url = "",
    json: Json = False,
) -> None:
    """Jobs of a project, newest first."""
    from luthier.store.pages import page
    from luthier.store.tables.jobs import Job

    with placed(database, project) as place, place.database.read() as session:
        found = [_facts(job) for job in page(session, Job, Job.project_id == place.who.project_id, limit=limit).rows]
    columns = ("id", "state", "model", "made", "result")
    rows = [
        (f["id"], f["state"], f["model"], _day(f["created_at"]), f["fine_tuned_model"] or (f["error"] or {}).get("code", "")) for f in found
    ]
    answer({"jobs": found}, json=json, show=lambda: table(columns, rows))


@app.command()
def show(job: Id, project: Project = "default", database: Url = "", json: Json = False) -> None:
    """Everything about one job."""
    from luthier.jobs import control, queue

    with placed(database, project) as place, place.database.read() as session:
        found = control.find(session, job, place.who.project_id)
        content = _facts(found) | {"queue_position": queue.position(session, found)}
    answer(content, json=json, show=lambda: table(("what", "value"), _told(content)))


@app.command()
def events(
    job: Id,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job is over.")] = False,
    project: Project = "default",
    database: Url = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """What a job tells, oldest first."""
    from luthier.jobs import control
    from luthier.jobs.states import OVER

    seen = 0
    with placed(database, project) as place:
        while True:
            with place.database.read() as session:
                over = control.find(session, job, place.who.project_id).state in OVER
                for event in _events(session, job, seen):
                    seen = event.n
                    answer(_event(event), json=json, show=lambda event=event: typer.echo(_line(event)))  # type: ignore[misc]
            if over or not follow:
                return
            time.sleep(1.0)


@app.command()
def cancel(job: Id, project: Project = "default", database: Url = "", json: Json = False) -> None:
    """End a job for good. One that runs is cancelled when its process is gone."""
    _control("cancel", job, project, database, json)


@app.command()
def pause(job: Id, project: Project = "default", database: Url = "", json: Json = False) -> None:
    """Stop a job at its next step with a checkpoint, and free its slot."""
    _control("pause", job, project, database, json)


@app.command()
def resume(job: Id, project: Project = "default", database: Url = "", json: Json = False) -> None:
    """Let a paused job wait at its old place again."""
    _control("resume", job, project, database, json)


def _control(what: str, job: str, project: str, url: str, json: bool) -> None:
    from luthier.jobs import control

    with placed(url, project) as place:
        found = getattr(control, what)(place.database, job, place.who)
        content = _facts(found)
    state = f"{found.state}, to be {'cancelled' if found.wanted == 'cancel' else 'paused'}" if found.wanted else found.state
    answer(content, json=json, show=lambda: typer.echo(f"{found.id} is {state}."))


def _file(place: Place, name: str) -> str:
    """The id of a file: `name` itself, or that of the upload of a file of this machine."""
    from luthier.core.errors import NotFound
    from luthier.store.blobs import Blobs

    path = Path(name).expanduser()
    if not path.is_file() and not name.startswith("file-"):
        what = f"There is no file {name} here."
        raise NotFound(what, remedy="Give a path, or the id of a file that was uploaded: `luthier files list` shows them.", code="no_file")
    return uploaded(place, path, blobs=Blobs.open(place.database), purpose="fine-tune").id if path.is_file() else name


def _events(session: Any, job: str, seen: int) -> list[JobEvent]:
    from sqlalchemy import select

    from luthier.store.tables.jobs import JobEvent

    return list(session.scalars(select(JobEvent).where(JobEvent.job_id == job, JobEvent.n > seen).order_by(JobEvent.n)))


def _facts(job: Job) -> dict[str, Any]:
    names = ("id", "state", "wanted", "model", "fine_tuned_model", "created_at", "started_at", "finished_at", "estimated_finish")
    more = (
        "training_file",
        "validation_file",
        "suffix",
        "seed",
        "method",
        "trained_tokens",
        "result_files",
        "error",
        "verdict",
        "run",
        "device",
    )
    return {name: getattr(job, name) for name in names + more}


def _told(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts of a job in words."""
    for name, value in content.items():
        if value and name.endswith(("_at", "_finish")):
            yield name, _day(value)
        elif value and name == "method":
            numbers = value[value["type"]]["hyperparameters"]
            yield name, f"{value['type']}: " + ", ".join(f"{key} {number}" for key, number in numbers.items())
        elif value and name in ("error", "verdict"):
            yield name, value.get("message") or value.get("sentence") or str(value)
        elif value:
            yield name, ", ".join(value) if isinstance(value, list) else str(value)


def _event(event: JobEvent) -> dict[str, Any]:
    return {name: getattr(event, name) for name in ("id", "created_at", "level", "type", "message", "data")}


def _line(event: JobEvent) -> str:
    return f"{_day(event.created_at)}  {'' if event.level == 'info' else event.level + ': '}{event.message}"


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
