"""Methods: which weights can move, with every setting and its default."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from luthier.cli.answer import answer, table


def run(
    name: Annotated[str, typer.Argument(help="One method; left out, all are shown.")] = "",
    matrix: Annotated[bool, typer.Option("--matrix", help="What goes with what, as a table.")] = False,
    base: Annotated[str, typer.Option(help="What each takes on this base on this machine: memory and time, tried for a minute.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Show methods and their settings: --method NAME --set method.SETTING=VALUE."""
    from luthier.core.registry import Folder

    if matrix:
        return _matrix(json)
    if base:
        return _costs(base, json)
    folder = Folder("luthier.methods", "method")
    content = {"methods": [_described(folder.load(one)) for one in ([name] if name else folder.names())]}
    answer(content, json=json, show=lambda: _show(content["methods"]))


def _matrix(json: bool) -> None:
    from luthier.jobs.matrix import columns, rows

    found = rows()
    answer({"matrix": found}, json=json, show=lambda: table(columns(), (row.values() for row in found)))


def _costs(base: str, json: bool) -> None:
    from dataclasses import asdict

    from luthier.cli.progress import screen
    from luthier.core.registry import Folder
    from luthier.jobs.costs import costs

    folder = Folder("luthier.methods", "method")
    with screen() as listen:
        found = [asdict(cost) | {"help": _help(folder.load(cost.method))} for cost in costs(base, listen=listen)]
    answer({"base": base, "costs": found}, json=json, show=lambda: _show_costs(found))


def _show_costs(found: list[dict[str, Any]]) -> None:
    columns = ("method", "weights that move", "of the base", "result MB", "peak MiB", "tokens a second", "what it is")
    rows = [
        (
            cost["method"],
            f"{cost['moved']:,}",
            f"{cost['share']:.2%}",
            f"{cost['result_bytes'] / 1e6:.2f}",
            f"{cost['peak_bytes'] / 2**20:,.0f}",
            f"{cost['tokens_per_second']:,.0f}",
            cost["help"],
        )
        for cost in found
    ]
    table(columns, rows)


def _help(module: Any) -> str:
    return str(module.__doc__ or "").strip().splitlines()[0]


def _described(module: Any) -> dict[str, Any]:
    settings = [
        {
            "name": key,
            "default": "" if field.is_required() else field.get_default(call_default_factory=True),
            "help": (field.description or "").replace("\n", " "),
        }
        for key, field in module.Options.model_fields.items()
    ]
    return {
        "name": module.__name__.rpartition(".")[2],
        "help": _help(module),
        "supports": sorted(module.Method.supports),
        "settings": settings,
        "schema": module.Options.model_json_schema(),
    }


def _show(methods: list[dict[str, Any]]) -> None:
    for method in methods:
        typer.echo(f"{method['name']}: {method['help']}\n  can: {', '.join(method['supports'])}")
        table(("setting", "default", "what it is"), [(f"method.{s['name']}", s["default"], s["help"]) for s in method["settings"]])
