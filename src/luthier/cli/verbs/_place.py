"""Verbs that work on the service's database and blobs themselves, on the machine that holds them: whoever may read those needs no key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from luthier.store.database import Database

Url = Annotated[
    str,
    typer.Option("--database", help="sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME; left out: LUTHIER_DATABASE."),
]
BlobsUrl = Annotated[
    str,
    typer.Option("--blobs", help="A folder, s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH; left out: LUTHIER_BLOBS."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


@contextmanager
def ready(url: str) -> Iterator[Database]:
    """The database with the tables of this version, and at least the first organisation in it."""
    from luthier.security import tenants
    from luthier.store.upgrade import open_database

    database = open_database(url)
    try:
        with database.write() as session:
            tenants.settle(session)
        yield database
    finally:
        database.close()
