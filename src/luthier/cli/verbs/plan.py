"""Show what a run would take of memory, part by part, and the way it would go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from luthier.cli.answer import answer, table
from luthier.cli.progress import screen

if TYPE_CHECKING:
    from luthier.engine.planner import Need, Plan

PARTS = ("program", "weights", "trained", "moments", "gradients", "activations", "working")


def run(
    file: Annotated[str, typer.Argument(help="The examples, as for tune; or a spec.yaml.")] = "",
    model: Annotated[str | None, typer.Option(help="A name from `luthier models`, a folder, or a Hugging Face name.")] = None,
    method: Annotated[str | None, typer.Option(help="Which weights move: a name from `luthier methods`.")] = None,
    quality: Annotated[str | None, typer.Option(help="draft, good or best: the dial every number is derived from.")] = None,
    config: Annotated[Path | None, typer.Option(help="A spec.yaml.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, e.g. train.optimiser=layerwise; may be repeated.")] = None,
    memory: Annotated[float, typer.Option(help="GiB to plan for; left out, what is free here.")] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Weigh the ways to train, the least costly first, until one fits. Nothing is loaded, nothing is written.

    Exit code 1 when nothing fits; then it says what would.
    """
    from luthier.jobs.planning import plan

    if config is None and Path(file).suffix in (".yaml", ".yml"):
        file, config = "", Path(file)
    said = {key: value for key, value in {"model": model, "method": method, "quality": quality}.items() if value is not None}
    with screen() as listen:
        available = int(memory * 2**30) if memory else None
        found = plan(file, available=available, config=config, settings=settings or (), listen=listen, **said)
    content = found.plan.to_json() | {"spec": found.spec.model_dump(mode="json")}
    answer(content, json=json, show=lambda: _show(found.plan))
    if found.plan.taken is None:
        raise typer.Exit(1)


def _show(plan: Plan) -> None:
    table(["MiB", *(str(need.way) for need in plan.weighed)], _rows(plan.weighed))
    taken = plan.taken
    if taken is not None:
        typer.echo(f"Fits into {_mib(plan.available)} MiB: {taken.way}; the heaviest forest has {taken.tokens:,} tokens.")
        return
    typer.echo(f"Nothing fits into {_mib(plan.available)} MiB." + "".join(f"\n  {text}" for text in plan.nearest))


def _rows(needs: list[Need]) -> list[list[str]]:
    parts = [[part, *(_mib(getattr(need, part)) for need in needs)] for part in PARTS]
    return [*parts, ["peak", *(_mib(need.peak) for need in needs)]]


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f}"
