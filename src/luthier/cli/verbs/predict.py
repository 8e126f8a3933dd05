"""Ask a run's head: a label, several, a number, a score, and how sure it is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.answer import answer
from luthier.core.errors import DataError

if TYPE_CHECKING:
    from luthier.jobs.result import Prediction


def run(
    run: Annotated[str, typer.Argument(help="A finished run with a head: its id, the beginning of it, its folder, or last.")],
    rows: Annotated[
        list[str] | None, typer.Argument(help='Texts, or rows as JSON: \'{"image": "17.png"}\'. Left out, standard input has one a line.')
    ] = None,
    system: Annotated[str, typer.Option(help="Instructions before each row, where those of the run had some.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Say of each row what the head says. The run's certificate is replayed first."""
    from luthier.jobs.result import Run
    from luthier.store.runs import find

    tuned = Run(find(run))
    said = rows or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    found = tuned.predict([_row(text, number) for number, text in enumerate(said, 1)], system=system)
    content = {"run": tuned.files.id, "predictions": [{"said": each.said, "sure": each.sure} for each in found]}
    lines = [_line(each, text) for each, text in zip(found, said, strict=True)]
    answer(content, json=json, show=lambda: typer.echo("\n".join(lines)))


def _row(text: str, number: int) -> str | dict[str, Any]:
    """A text as it stands; what begins with a brace is a row."""
    if not text.lstrip().startswith("{"):
        return text
    from luthier.data.json_rows import Flaw, parse

    found = parse(text.encode(), number)
    if isinstance(found, Flaw):
        raise DataError(found.message, where=f"predict row {number}", remedy=found.remedy, code=found.code)
    return found.fields


def _line(found: Prediction, text: str) -> str:
    """What is said, how sure, and of what."""
    what = found.said
    told = " ".join(what) if isinstance(what, list) else f"{what:.4g}" if isinstance(what, float) else str(what)
    sure = f"{found.sure[what]:.3f}" if isinstance(what, str) and found.sure else ""
    return f"{told}\t{sure}\t{text if len(text) <= 60 else text[:57] + '...'}"
