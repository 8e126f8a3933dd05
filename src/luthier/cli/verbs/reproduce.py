"""Do a run again and compare the trained weights, bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.answer import answer, table
from luthier.cli.progress import screen

if TYPE_CHECKING:
    from luthier.jobs.reproduce import Reproduction


def run(
    run: Annotated[str, typer.Argument(help="A finished run: its id, folder, or last.")],
    out: Annotated[Path | None, typer.Option(help="Keep the second run in this new folder; left out, it is removed.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Re-run the spec of a run in a fresh folder and compare the sha256 of the trained weights.

    Exit code 1 when they differ, with what else differs (versions, processor, data).
    """
    from luthier.jobs.reproduce import reproduce

    with screen() as listen:
        found = reproduce(run, out=out, listen=listen)
    answer(found.to_json(), json=json, show=lambda: _show(found))
    if not found.same:
        raise typer.Exit(1)


def _show(found: Reproduction) -> None:
    if found.same:
        typer.echo("Reproduced: the trained weights are equal, byte for byte.")
        return
    typer.echo(f"Not reproduced: {', '.join(found.differing)} differ.")
    if found.changed:
        table(("what changed", "then", "now"), [(key, then, now) for key, (then, now) in found.changed.items()])
    else:
        typer.echo("Versions, machine, data and spec are those of the first run: this should not happen, please report it.")
