"""Put back what a backup holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.answer import answer
from luthier.cli.verbs._place import BlobsUrl, Json, Url


def run(
    place: Annotated[Path, typer.Argument(metavar="BACKUP", help="The folder or .tar file that luthier backup made.")],
    database: Url = "",
    blobs: BlobsUrl = "",
    json: Json = False,
) -> None:
    """Check every byte of a backup, then put it into an empty database, its files and its runs.

    The database may be of another kind than the one the backup comes from: this is the way from SQLite to PostgreSQL.
    """
    from luthier.core.home import runs_folder
    from luthier.store.blobs import Blobs
    from luthier.store.database import Database, default_url
    from luthier.store.restore import restore

    opened = Database.connect(database or default_url())
    try:
        manifest = restore(place, Blobs.open(opened, blobs), runs_folder())
        where = opened.place
    finally:
        opened.close()
    content = {"database": where, "created": manifest.created, "rows": manifest.rows, "files": len(manifest.files)}
    rows = sum(manifest.rows.values())
    answer(content, json=json, show=lambda: typer.echo(f"{where}: {rows:,} rows and {len(manifest.files):,} files of {manifest.created}"))
