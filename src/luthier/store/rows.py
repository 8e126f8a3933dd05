"""All rows of a database as lines of JSON, and back: the same for SQLite and PostgreSQL, so that either can be restored from the other.

One file for each table, one object for each row. They were written at some step of the tables; reading them makes the tables of that step
first, then brings them forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import JSON, Connection, MetaData, insert, inspect, literal, select, text

from luthier.core.errors import StorageError
from luthier.core.files import storing
from luthier.store import upgrade
from luthier.store.database import Database
from luthier.store.failures import telling
from luthier.store.tables import Table
from luthier.store.tables.files import BlobClaim, File, UploadPart

AT_ONCE = 1000
"""Rows in memory at a time."""

PASSING = {BlobClaim.__tablename__}
"""Tables whose rows mean nothing elsewhere."""


def write(database: Database, folder: Path) -> tuple[str, dict[str, int], list[str]]:
    """Write the rows of all tables as they are at one moment.

    Returns:
        the step of the tables, how many rows each had, and the digests of all blobs that rows name.
    """
    with telling(database.place), database.engine.connect() as connection:
        if database.is_sqlite:
            connection = connection.execution_options(luthier_read=True)  # WAL: a transaction that reads sees one moment
        else:
            connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            step = upgrade.step_of(connection)
            counts = {name: _write_one(connection, name, folder) for name in _in_order()}
            return step, counts, _digests(connection)


def is_empty(database: Database) -> bool:
    """Whether there is nothing that a restore would lose."""
    with telling(database.place), database.engine.connect().execution_options(luthier_read=True) as connection:
        if not upgrade.step_of(connection):
            return True
        there = set(inspect(connection).get_table_names())
        return not any(
            connection.execute(select(literal(1)).select_from(Table.metadata.tables[name])).first() for name in there & set(_in_order())
        )


def read(database: Database, step: str, tables: Mapping[str, Iterable[bytes]], *, expected: dict[str, int]) -> None:
    """Put rows into an empty database, in one transaction: all of them, or the database is as it was.

    Args:
        step: that of the tables they come from. tables: lines by the name of the table. expected: how many each has.

    Raises:
        StorageError: a line is no row, or rows are missing (``backup_damaged``).
    """
    with upgrade.alone(database) as connection:
        upgrade.begin_at(database, connection, step)
        known = MetaData()
        known.reflect(connection, only=lambda name, _: name in tables)
        counts = {table.name: _read_one(connection, table, tables[table.name]) for table in known.sorted_tables}
        if counts != expected:
            raise StorageError(
                f"The backup has {counts} rows, and should have {expected}.", remedy="Take another one.", code="backup_damaged"
            )
        upgrade.finish(database, connection)


def _in_order() -> list[str]:
    """Names of the tables, each after those its rows point to."""
    return [table.name for table in Table.metadata.sorted_tables if table.name not in PASSING]


def _write_one(connection: Connection, name: str, folder: Path) -> int:
    table, count = Table.metadata.tables[name], 0
    names, order = [str(column.name) for column in table.columns], list(table.primary_key.columns)
    with storing(folder / name), open(folder / f"{name}.jsonl", "wb") as sink:
        for row in connection.execute(select(table).order_by(*order).execution_options(yield_per=AT_ONCE)):
            sink.write(orjson.dumps(dict(zip(names, row, strict=True))) + b"\n")
            count += 1
    return count


def _digests(connection: Connection) -> list[str]:
    found: set[str] = set()
    for column in (File.digest, UploadPart.digest):
        found.update(connection.scalars(select(column).distinct()))
    return sorted(found)


def _read_one(connection: Connection, table: Any, lines: Iterable[bytes]) -> int:
    for column in table.columns:
        if isinstance(column.type, JSON):
            column.type.none_as_null = True
    count, rows = 0, _parsed(table.name, lines)
    while some := list(islice(rows, AT_ONCE)):
        connection.execute(insert(table), some)
        count += len(some)
    if count and connection.dialect.name == "postgresql" and "n" in table.columns:
        # Rows came with their numbers; the next one must be higher.
        connection.execute(text(f"SELECT setval(pg_get_serial_sequence('{table.name}', 'n'), (SELECT max(n) FROM {table.name}))"))
    return count


def _parsed(name: str, lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise StorageError(
                f"This is no row: {error}.", where=f"{name}.jsonl row {number}", remedy="Take another backup.", code="backup_damaged"
            ) from error
