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
    typer.echo("Next:  " + "\n       ".join(f"luthier {verb}" for verb in _onward(done, name)))


def _onward(done: Run, name: str) -> list[str]:
    """What can be done with it now: not every run is one to talk to, or to merge."""
    from luthier.jobs import specs

    asked = {"chat": [f"chat {name}"], "predict": [f"predict {name} TEXT_OR_ROW"]}.get(done.answers_to, [])
    can = specs.METHODS.load(done.spec.method.name).Method.supports
    out = [f"export {name} --to {to} --out FOLDER" for to, word in (("merged", "merge"), ("peft", "peft")) if word in can]
    return [*asked, f"evaluate {name} --data OTHER_ROWS", *out[:1]]
