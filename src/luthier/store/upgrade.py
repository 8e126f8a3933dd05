"""A database whose tables are those of this version: made where there are none, brought forward where they are older.

    empty                         -> all tables are made
    of this version               -> nothing to do
    older, SQLite                 -> the file is copied beside itself, then brought forward
    older, PostgreSQL             -> refused with what to do; `luthier database upgrade` brings it forward
    newer                         -> refused

All of it happens in one transaction that nobody else can enter, so several processes may start at once, and one that is killed half-way
leaves the database as it was.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, func, inspect, select, text

from luthier.core.errors import StorageError
from luthier.core.files import storing, sync_folder
from luthier.store.database import Database, default_url, make_private
from luthier.store.failures import telling
from luthier.store.tables import Table

if TYPE_CHECKING:
    from alembic.config import Config

VERSION_TABLE = "luthier_revision"
"""As in migrations/env.py, which only Alembic may import."""

UPGRADE_LOCK = 0x6C757468
"""The number of PostgreSQL's advisory lock that keeps two upgrades apart."""


def open_database(url: str = "") -> Database:
    """The database at `url` (else at `default_url`), with the tables of this version.

    Raises:
        SpecError: `url` is no address of a database.
        StorageError: it cannot be reached or written, is newer than this version (``database_newer``), or is an older PostgreSQL
            (``database_old``).
    """
    database = Database.connect(url or default_url())
    try:
        if revision(database) != heads():
            with alone(database) as connection:
                _forward(database, connection, confirmed=False)
    except BaseException:
        database.close()
        raise
    return database


def upgrade(database: Database) -> None:
    """Bring any older database forward; a PostgreSQL one on the word of the caller that there is a backup."""
    with alone(database) as connection:
        _forward(database, connection, confirmed=True)


def revision(database: Database) -> str:
    """The step the tables are at; empty where there are none."""
    with telling(database.place), database.engine.connect().execution_options(luthier_read=True) as connection:
        return step_of(connection)


def heads() -> str:
    """The step this version's tables are at; empty while there is none."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(configuration(None)).get_current_head() or ""


def configuration(connection: Connection | None) -> Config:
    """What Alembic needs to know, for commands on `connection`."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "luthier.store:migrations")
    return config


def step_of(connection: Connection) -> str:
    """`revision`, within a transaction."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return ""
    return connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) or ""


@contextmanager
def alone(database: Database) -> Iterator[Connection]:
    """A transaction for changes of tables that no other one enters before it ends."""
    with telling(database.place), database.engine.connect() as connection:
        raw = connection.connection.driver_connection
        if database.is_sqlite:
            # Making a table anew drops the old one, which would take the rows of others along that point to it.
            # The switch works only outside of a transaction; finish() looks at the end whether all still point somewhere.
            assert raw is not None
            raw.execute("PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                if not database.is_sqlite:
                    connection.execute(select(func.pg_advisory_xact_lock(UPGRADE_LOCK)))
                yield connection
        finally:
            connection.invalidate()  # its pragma must not come back from the pool


def begin_at(database: Database, connection: Connection, step: str) -> None:
    """Put empty tables of `step` in the place of whatever tables of ours there are.

    Raises:
        StorageError: this version does not know `step`.
    """
    from alembic import command

    if step not in known_steps():
        raise _newer(database, step, heads())
    Table.metadata.drop_all(connection)
    connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
    command.upgrade(configuration(connection), step)


def finish(database: Database, connection: Connection) -> None:
    """Bring the tables forward to this version's.

    Raises:
        StorageError: a row would lose what it belongs to; the caller's transaction undoes all.
    """
    from alembic import command

    command.upgrade(configuration(connection), "head")
    if database.is_sqlite and (lost := connection.execute(text("PRAGMA foreign_key_check")).first()):
        raise StorageError(
            f"A row of {lost[0]} would be without the {lost[2]} it belongs to; nothing was changed.",
            where=database.place,
            remedy="Please report it.",
            code="database_upgrade",
        )


def _forward(database: Database, connection: Connection, *, confirmed: bool) -> None:
    found, wanted = step_of(connection), heads()
    if found == wanted:
        return  # another process was faster
    if found and found not in known_steps():
        raise _newer(database, found, wanted)
    if found and database.is_sqlite:
        copy_file(database.file, _beside(database.file, found))
    elif found and not confirmed:
        raise _older(database, found, wanted)
    finish(database, connection)


def known_steps() -> set[str]:
    """All steps this version can begin at."""
    from alembic.script import ScriptDirectory

    return {step.revision for step in ScriptDirectory.from_config(configuration(None)).walk_revisions()}


def copy_file(source: Path, target: Path) -> None:
    """A consistent copy of a SQLite file that others may be writing; `target` appears only when it is whole and on the disk."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with storing(target):
        try:
            make_private(part)
            with (
                closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as there,
                closing(sqlite3.connect(part)) as here,
            ):
                there.backup(here)
            os.replace(part, target)
            sync_folder(target.parent)
        except sqlite3.Error as error:
            raise OSError(str(error)) from error
        finally:
            part.unlink(missing_ok=True)


def _beside(file: Path, found: str) -> Path:
    return file.with_name(f"{file.name}.before-{found}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}")


def _newer(database: Database, found: str, wanted: str) -> StorageError:
    return StorageError(
        f"The database is of a newer Luthier: its tables are at step {found}, this version knows them up to {wanted}.",
        where=database.place,
        remedy="Use that newer version, or restore what was copied before its upgrade (luthier.db.before-..., or your backup).",
        code="database_newer",
    )


def _older(database: Database, found: str, wanted: str) -> StorageError:
    return StorageError(
        f"The database is of an older Luthier: its tables are at step {found}, this version wants {wanted}.",
        where=database.place,
        remedy="Stop all servers and workers, back up (`luthier backup` of the old version, or pg_dump), then `luthier database upgrade`.",
        code="database_old",
    )
