"""Runs so far, and what came of each."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from luthier.cli.answer import answer, table
from luthier.core.errors import LuthierError
from luthier.store.runs import RunFolder, find, listed, read_json

app = typer.Typer(help="Runs so far, and what came of each.", invoke_without_command=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@app.callback()
def every(context: typer.Context, json: Json = False) -> None:
    """List runs, oldest first. Runs made with --out are shown by their path: luthier runs show DIR."""
    if context.invoked_subcommand is None:
        runs = [_summary_or_damage(run) for run in listed()]
        answer({"runs": runs}, json=json, show=lambda: _list(runs))


@app.command()
def show(run: Annotated[str, typer.Argument(help="A run's folder, its id, the beginning of it, or last.")], json: Json = False) -> None:
    """Everything about one run: state, verdict, settings, files."""
    folder = find(run)
    content = _summary(folder) | {"spec": _spec(folder), "capsule": read_json(folder.capsule), "files": _files(folder)}
    answer(content, json=json, show=lambda: _show(content))


def _summary_or_damage(run: RunFolder) -> dict[str, Any]:
    """One damaged run must not hide the others."""
    try:
        return _summary(run)
    except LuthierError as error:
        damaged = {"id": run.id, "name": run.name, "folder": str(run.path), "state": "damaged", "error": error.to_json()}
        return damaged | dict.fromkeys(("stage", "created", "changed", "verdict"), "")


def _summary(run: RunFolder) -> dict[str, Any]:
    state = run.state()
    verdict = read_json(run.evaluation / "summary.json").get("verdict", {})
    return {
        "id": run.id,
        "name": run.name,
        "folder": str(run.path),
        "state": state["state"],
        "stage": state.get("stage", ""),
        "created": state.get("created", ""),
        "changed": state.get("changed", ""),
        "verdict": verdict.get("sentence", "") if isinstance(verdict, dict) else str(verdict),
        "error": state.get("error", {}),
    }


def _list(runs: list[dict[str, Any]]) -> None:
    if not runs:
        typer.echo("No runs yet. `luthier demo` or `luthier tune FILE` makes the first.")
        return
    table(("run", "state", "verdict"), [(r["id"], r["state"], r["verdict"] or r["error"].get("message", "")) for r in runs])


def _show(content: dict[str, Any]) -> None:
    typer.echo(f"{content['id']}\n  state    {content['state']} ({content['stage']}), {content['changed']}")
    typer.echo(f"  folder   {content['folder']}")
    if content["verdict"]:
        typer.echo(f"  verdict  {content['verdict']}")
    if content["state"] in ("failed", "interrupted"):
        typer.echo(f"  why      {content['error'].get('message', 'stopped')}\n  go on    luthier tune --resume {content['name']}")
    if content["state"] in ("created", "running"):
        typer.echo(f"  go on    if it was killed: luthier tune --resume {content['name']}")
    table(
        ("setting", "value"), [(f"{section}.{key}", value) for section, fields in content["spec"].items() for key, value in _items(fields)]
    )
    table(("file", "bytes"), [(f["file"], f"{f['bytes']:,}") for f in content["files"]])


def _items(fields: Any) -> list[tuple[str, Any]]:
    return list(fields.items()) if isinstance(fields, dict) else [("", fields)]


def _spec(run: RunFolder) -> dict[str, Any]:
    from luthier.jobs.specs import load_yaml

    return load_yaml(run.spec) if run.spec.is_file() else {}


def _files(run: RunFolder) -> list[dict[str, Any]]:
    found = [path for path in sorted(run.path.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return [{"file": str(path.relative_to(run.path)), "bytes": path.stat().st_size} for path in found]
