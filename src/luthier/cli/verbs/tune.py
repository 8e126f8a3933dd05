"""Tune a model on a file of examples and compare it with its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.cli.answer import answer
from luthier.cli.progress import screen
from luthier.cli.verbs._outcome import result, show
from luthier.core.errors import SpecError


def run(
    file: Annotated[str, typer.Argument(help="The examples: JSONL, CSV, Parquet or text, .gz too; the format is recognised.")] = "",
    model: Annotated[str | None, typer.Option(help="A name from `luthier models`, a folder, or a Hugging Face name.")] = None,
    method: Annotated[str | None, typer.Option(help="Which weights move: a name from `luthier methods`.")] = None,
    objective: Annotated[str | None, typer.Option(help="What is learned from a row: a name from docs/objectives.md.")] = None,
    quality: Annotated[str | None, typer.Option(help="draft, good or best: the dial every number is derived from.")] = None,
    out: Annotated[Path | None, typer.Option(help="A new folder for the run; left out, it lies under LUTHIER_HOME.")] = None,
    config: Annotated[Path | None, typer.Option(help="A spec.yaml.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. method.rank=8; may be repeated, and wins.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this run: its id, folder, or last.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Check the examples, tune, compare with the base on held-out rows, and report.

    Everything not said is derived from the data and the model, and printed. Ctrl-C saves and prints how to go on.
    """
    said = {"model": model, "method": method, "objective": objective, "quality": quality}
    if resume is not None:
        _only_resume([file, out, config, settings, *said.values()])
    from luthier.jobs.run import resume as go_on
    from luthier.jobs.run import tune

    with screen() as listen:
        if resume is None:
            done = tune(file, out=out, config=config, settings=settings or (), listen=listen, **_given(said))
        else:
            done = go_on(resume, listen=listen)
    answer(result(done), json=json, show=lambda: show(done))


def _given(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if value is not None}


def _only_resume(others: list[Any]) -> None:
    if any(other for other in others):
        raise SpecError(
            "--resume goes on with a run as it was begun; nothing else can be said with it.",
            remedy="Leave the other arguments out, or begin a new run.",
            code="resume_alone",
        )
