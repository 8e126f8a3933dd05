"""Verbs that work on the service's database and blobs themselves, on the machine that holds them: whoever may read those needs no key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from luthier.store.audit import Deputy
    from luthier.store.blobs import Blobs
    from luthier.store.database import Database
    from luthier.store.tables.files import File

PIECE = 1 << 20
MOST_BYTES = 8 << 30

Url = Annotated[
    str,
    typer.Option("--database", help="sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME; left out: LUTHIER_DATABASE."),
]
BlobsUrl = Annotated[
    str,
    typer.Option("--blobs", help="A folder, s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH; left out: LUTHIER_BLOBS."),
]
Project = Annotated[str, typer.Option("--project", help="Name or id.")]
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


class Place(NamedTuple):
    """Where a verb works, and for whom."""

    database: Database
    who: Deputy

    @property
    def project_id(self) -> str:
        """The project it works in."""
        return str(self.who.project_id)


@contextmanager
def placed(url: str, project: str) -> Iterator[Place]:
    """The database, and this machine's command line as somebody of the project."""
    from luthier.security import tenants
    from luthier.store.audit import LOCAL, Deputy
    from luthier.store.tables.tenants import Project as Row

    with ready(url) as database:
        with database.read() as session:
            room = tenants.named(session, Row, project)
        yield Place(database, Deputy(LOCAL.name, room.organisation_id, room.id))


def uploaded(place: Place, path: Path, *, blobs: Blobs, purpose: str, expires_after: float | None = None) -> File:
    """A file of this machine, put where the service keeps files."""
    from luthier.store import files

    with open(path, "rb") as source:
        stored = blobs.put(iter(lambda: source.read(PIECE), b""), most=MOST_BYTES)
    with place.database.write() as session:
        return files.add(session, place.who, stored, filename=path.name, purpose=purpose, expires_after=expires_after)
