"""Base models: the catalog, what is on this machine, and fetching one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.cli.answer import answer, table

GIGABYTE = 1e9


def run(
    name: Annotated[str, typer.Argument(help="One model in full; left out, all are listed.")] = "",
    download: Annotated[bool, typer.Option("--download", help="Fetch NAME from the Hugging Face hub.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """List base models with what tuning them takes, or fetch one. Without --download nothing touches the network."""
    if name:
        one = _one(name, download=download)
        answer(one, json=json, show=lambda: table(("fact", "value"), list(one.items())))
        return
    if download:
        raise typer.BadParameter("say which: luthier models NAME --download", param_hint="--download")
    content = {"catalog": _catalog(), "local": _local()}
    answer(content, json=json, show=lambda: _show(content))


def _one(name: str, *, download: bool) -> dict[str, Any]:
    from luthier.core.errors import NotFound
    from luthier.models.catalog import catalog
    from luthier.models.find import find

    entry = catalog().get(name)
    try:
        folder = str(find(name, download=download))
    except NotFound:
        if entry is None or download:
            raise
        folder = ""  # in the catalog, and not on this machine: worth a look all the same
    facts = entry.model_dump() | {"lora_bytes": entry.lora_bytes, "full_bytes": entry.full_bytes} if entry else _facts(Path(folder))
    return {"name": name, **facts, "folder": folder or f"not here; luthier models {name} --download"}


def _facts(folder: Path) -> dict[str, Any]:
    from luthier.models.config import read_config
    from luthier.models.families import family_of

    config = read_config(folder)
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {"model_type": config.model_type, "context": family_of(config.model_type).context(config), "weight_bytes": weights}


def _catalog() -> list[dict[str, Any]]:
    from luthier.models.catalog import BUNDLED, catalog

    here = {local["name"] for local in _local()}
    return [
        entry.model_dump()
        | {
            "lora_bytes": entry.lora_bytes,
            "full_bytes": entry.full_bytes,
            "here": entry.repo in here or entry.name in here or (entry.bundled and any((BUNDLED / entry.name).glob("*.safetensors"))),
        }
        for entry in catalog().values()
    ]


def _local() -> list[dict[str, str]]:
    from luthier.models.find import local_models

    return [{"name": name, "folder": str(folder)} for name, folder in local_models()]


def _show(content: dict[str, Any]) -> None:
    table(
        ("name", "parameters", "context", "licence", "languages", "lora GB", "full GB", "here"),
        [
            (
                e["name"],
                f"{e['parameters'] / 1e6:,.0f} M",
                f"{e['context']:,}",
                e["licence"],
                e["languages"],
                f"{e['lora_bytes'] / GIGABYTE:,.1f}",
                f"{e['full_bytes'] / GIGABYTE:,.1f}",
                "yes" if e["here"] else "",
            )
            for e in content["catalog"]
        ],
    )
    for local in content["local"]:
        typer.echo(f"  on this machine: {local['name']}  {local['folder']}")
    typer.echo("lora GB, full GB: estimated memory. One in full: luthier models NAME. Fetch one: luthier models NAME --download.")
