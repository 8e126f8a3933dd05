"""Compare a run with its base on other rows than it was judged by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.cli.answer import answer, table
from luthier.cli.progress import screen


def run(
    run: Annotated[str, typer.Argument(help="A finished run: its id, the beginning of it, its folder, or last.")],
    data: Annotated[str, typer.Option("--data", help="A file of rows with expected answers that the run has not learned.")],
    rows: Annotated[int | None, typer.Option(help="Rows answered by generation; the loss always uses all. 0 skips generation.")] = None,
    metric: Annotated[str | None, typer.Option(help="What the verdict is about; auto takes label accuracy for labels, else chrF.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for items and summary; left out, one inside the run.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Answer every row of a file with base and tuned, and say which is better. The run's certificate is replayed first."""
    from luthier.jobs.rejudge import judge
    from luthier.jobs.result import Run
    from luthier.store.runs import find

    said = {key: value for key, value in {"rows": rows, "metric": metric}.items() if value is not None}
    with screen() as listen:
        found, folder = judge(Run(find(run)), Path(data), out=out, listen=listen, **said)
    content = {"folder": str(folder), **found.to_json()}
    answer(content, json=json, show=lambda: _show(content))


def _show(content: dict[str, Any]) -> None:
    typer.echo(f"\n{content['verdict']['sentence']}\n")
    columns = ("", "base", "tuned", "difference", "95% interval", "")
    table(columns, [_line(measure) for measure in content["measures"].values()])
    for note in content["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(f"Every answer: {content['folder']}/evaluation/items.jsonl")


def _line(measure: dict[str, Any]) -> tuple[str, ...]:
    numbers = [f"{measure[name]:.3g}" for name in ("base", "tuned", "difference")]
    word = {"tuned": "better", "base": "worse", "none": "no difference shown"}[measure["better"]]
    return measure["metric"], *numbers, f"{measure['low']:.3g} to {measure['high']:.3g}", word
