"""Copy everything the service keeps: database, files, runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.answer import answer
from luthier.cli.verbs._place import BlobsUrl, Json, Url


def run(
    to: Annotated[Path, typer.Argument(help="A new folder, or a new file ending in .tar.")],
    database: Url = "",
    blobs: BlobsUrl = "",
    json: Json = False,
) -> None:
    """Copy database, files and runs as they are at one moment. The service may go on meanwhile. Put back with `luthier restore`.

    The copy holds secrets of webhooks and hashes of keys; only its owner may read it.
    """
    from luthier.core.home import runs_folder
    from luthier.store.backup import backup
    from luthier.store.blobs import Blobs
    from luthier.store.upgrade import open_database

    opened = open_database(database)
    try:
        manifest = backup(Blobs.open(opened, blobs), runs_folder(), to.absolute())
    finally:
        opened.close()
    size, rows = sum(entry.bytes for entry in manifest.files), sum(manifest.rows.values())
    content = {"place": str(to), "files": len(manifest.files), "bytes": size, "rows": manifest.rows, "step": manifest.step}
    answer(content, json=json, show=lambda: typer.echo(f"{to}: {rows:,} rows, {len(manifest.files):,} files, {size:,} bytes"))
