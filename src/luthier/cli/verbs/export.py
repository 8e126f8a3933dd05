"""Turn a run into files other software loads: a PEFT adapter, or a merged model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.answer import answer
from luthier.core.errors import ResultError

if TYPE_CHECKING:
    from luthier.jobs.result import Run


def run(
    run: Annotated[str, typer.Argument(help="A finished run: its id, the beginning of it, its folder, or last.")],
    out: Annotated[Path, typer.Option(help="A new folder for the export.")],
    to: Annotated[str, typer.Option(help="peft (the adapter alone) or merged (a plain model).")] = "merged",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Export a run. Its certificate is replayed before, and again on what was exported: a differing model is no success."""
    from luthier.export import EXPORTERS, export, free
    from luthier.jobs.result import Run
    from luthier.store.runs import find

    EXPORTERS.load(to)  # a wrong name is told before the model is loaded
    free(out)
    tuned = Run(find(run))
    export(to, tuned.model, tuned.method, out)
    try:
        held = _replayed(tuned, to, out)
    except ResultError:
        shutil.rmtree(out)  # written a moment ago, by us: what does not answer as certified must not lie around
        raise
    talks = to == "merged" and tuned.answers_to == "chat"
    content = {"run": tuned.files.id, "to": to, "folder": str(out.resolve()), "files": _files(out), "certificate": held}
    answer(content, json=json, show=lambda: _show(content, talks=talks))


def _replayed(tuned: Run, to: str, out: Path) -> dict[str, Any]:
    """Read the export back from disk and hold it against the run's certificate."""
    from dataclasses import asdict

    from luthier.evaluation import certificate
    from luthier.jobs import heads
    from luthier.models.load import load, load_folder

    if not tuned.files.certificate.is_file():
        return {}
    spec = tuned.spec
    if to == "merged":
        return asdict(certificate.replay(load_folder(out, dtype=tuned.model.dtype, context=spec.model.context), None, tuned.folder))
    base = load(spec.model.name, dtype=spec.model.dtype, context=spec.model.context)
    return asdict(certificate.replay(base, heads.load(spec, base, out), tuned.folder))


def _files(folder: Path) -> list[dict[str, Any]]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [{"file": str(path.relative_to(folder)), "bytes": path.stat().st_size} for path in found]


def _show(content: dict[str, Any], *, talks: bool) -> None:
    total = sum(file["bytes"] for file in content["files"])
    typer.echo(f"{content['folder']}: {len(content['files'])} files, {total / 1e6:,.1f} MB.")
    held = content["certificate"]
    if held:
        typer.echo(f"Certificate: {held['probes']} probes, {held['tokens']} tokens agree (largest distance {held['largest']:.2g} nats).")
    else:
        typer.echo("This run has no certificate: nothing was compared.")
    if talks:
        typer.echo(f"Talk to it: luthier chat {content['folder']}")
