"""The whole job on the bundled model and the bundled sample: what `make demo` runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.cli.answer import answer
from luthier.cli.progress import screen
from luthier.cli.verbs._outcome import result, show

if TYPE_CHECKING:
    from luthier.jobs.result import Run

QUESTION = "Hello, I ordered a blue bowl last week and one side is chipped. What can I do?"


def run(
    short: Annotated[bool, typer.Option("--short", help="A draft on few steps: shows that everything works, in a minute or two.")] = False,
    out: Annotated[Path | None, typer.Option(help="A new folder for the run; left out, it lies under LUTHIER_HOME.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Teach the bundled base, luthier-mini, to work at the support desk of a small shop, and see whether it got better.

    check, ledger, rehearsal, tuning, verdict against the base on held-out rows, and one question answered by both.
    """
    from luthier.jobs.run import tune

    with screen() as listen:
        done = tune(listen=listen, out=out, **_spec(short))
    answers = {side: done.chat(QUESTION, side=side) for side in ("base", "tuned")}
    answer(result(done) | {"question": QUESTION, "answers": answers}, json=json, show=lambda: _show(done, answers))


def _spec(short: bool) -> dict[str, Any]:
    samples = Path(__file__).parents[2] / "data" / "samples"
    spec: dict[str, Any] = {
        "data": {"file": str(samples / "desk.jsonl"), "valid": str(samples / "desk.heldout.jsonl")},
        "model": "luthier-mini",
    }
    return spec | ({"quality": "draft", "train": {"max_steps": 30}, "evaluate": {"rows": 24}} if short else {})


def _show(done: Run, answers: dict[str, str]) -> None:
    typer.echo(f"\nQuestion  {QUESTION}")
    for side, text in answers.items():
        typer.echo(f"\n{side:<9} {text.strip()}")
    show(done)
