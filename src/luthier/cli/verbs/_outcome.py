"""How verbs that tune tell what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from luthier.jobs.result import Run


def result(done: Run) -> dict[str, Any]:
    """The outcome of a run as plain data."""
    return {
        "run": done.files.id,
        "folder": str(done.folder),
        "state": done.files.state()["state"],
        "verdict": done.summary.get("verdict", {}),
        "weights": str(done.files.weights),
        "report": str(done.files.report),
        "spec": done.spec.model_dump(mode="json"),
    }


def show(done: Run) -> None:
    """The outcome of a run for people: the verdict, where the files are, what to type next."""
    name = done.files.name
    typer.echo(f"\n{done.verdict or 'It was not compared with its base.'}\n")
    typer.echo(f"  files    {done.folder}\n  weights  {done.files.weights}\n  report   {done.files.report}\n")
    typer.echo(f"Next:  luthier chat {name}\n       luthier evaluate {name} --data OTHER_ROWS\n       luthier export {name} --to merged")
