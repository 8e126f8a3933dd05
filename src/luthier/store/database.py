"""The one door to SQLAlchemy's engine: SQLite in a file by default, PostgreSQL by URL.

    database = open_database(url)  # store/upgrade.py: as it should be; Database.connect takes it as it is
    with database.write() as session: ...  # one transaction; committed at the end, rolled back by any exception
    with database.read() as session: ...

SQLite allows one writer at a time. A plain BEGIN takes the right to write only at the first write and then fails when another was
faster; BEGIN IMMEDIATE waits for it at once, up to `PATIENCE` seconds. A Database does not survive a fork: each process opens its own.
"""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, sessionmaker

from luthier.core.errors import MissingPart, SpecError
from luthier.core.files import storing
from luthier.core.home import home
from luthier.store.failures import telling

PATIENCE = 30.0
"""Seconds a writer waits for the one before it."""

CONNECTIONS = 10
"""Connections kept open by one process; under load up to four times as many."""

AFTERWARDS = "luthier_afterwards"


def default_url() -> str:
    """``LUTHIER_DATABASE``, or SQLite in ``LUTHIER_HOME``."""
    return os.environ.get("LUTHIER_DATABASE") or f"sqlite:///{home() / 'luthier.db'}"


@dataclass(frozen=True)
class Database:
    """An engine and its sessions. Objects stay readable after their session has ended (nothing expires on commit).

    Whatever the database refuses leaves `write` and `read` as a StorageError that says what to do (store/failures.py); only
    ``sqlalchemy.exc.IntegrityError`` passes as it is, because callers ask for it: somebody else was faster, or a name is taken.
    """

    engine: Engine
    _sessions: sessionmaker[Session]

    @classmethod
    def connect(cls, url: str) -> Database:
        """A database as it is; nothing is created but the folder SQLite's file lies in.

        Raises:
            SpecError: `url` is no address of SQLite in a file or of PostgreSQL.
            MissingPart: PostgreSQL's driver is not installed.
        """
        address = _address(url)
        engine = _sqlite(address) if address.get_backend_name() == "sqlite" else _postgres(address)
        return cls(engine, sessionmaker(engine, expire_on_commit=False))

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @property
    def file(self) -> Path:
        """SQLite's file; only where `is_sqlite`."""
        return Path(self.engine.url.database or "")

    @property
    def place(self) -> str:
        """Where it is, for people: without its password."""
        return str(self.file) if self.is_sqlite else self.engine.url.render_as_string(hide_password=True)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write; what `afterwards` was asked for follows its commit."""
        with telling(self.place), self._sessions.begin() as session:
            session.connection()  # begins now, not at the first statement: on SQLite this is the lock
            yield session
        for step in session.info.pop(AFTERWARDS, []):
            step()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads; on SQLite it never waits for a writer."""
        with telling(self.place), self._sessions() as session:
            session.connection(execution_options={"luthier_read": True})
            yield session

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


def afterwards(session: Session, step: Callable[[], object]) -> None:
    """Do `step` once the transaction of `session` is committed; never, if it is rolled back. Only inside `Database.write`."""
    session.info.setdefault(AFTERWARDS, []).append(step)


def exclusive(session: Session, name: str) -> None:
    """Make everybody else who asks for `name` wait until this transaction ends. SQLite has one writer at a time anyway."""
    if session.get_bind().dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
        session.execute(select(func.pg_advisory_xact_lock(number)))


def _address(url: str) -> URL:
    """The parts of `url`. It is never shown whole: it may hold a password."""
    try:
        address = make_url(url)
    except ArgumentError:
        address = URL.create("unreadable")
    kind = address.get_backend_name()
    if kind not in ("sqlite", "postgresql", "postgres"):
        raise SpecError(
            f"This is no address of a database that Luthier keeps its rows in ({kind}).",
            where="--database or LUTHIER_DATABASE",
            remedy="Take sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME.",
            code="database_url",
        )
    if kind == "sqlite" and address.database in (None, "", ":memory:"):
        raise SpecError(
            "SQLite in memory is seen by one connection only, and gone with it.",
            where="--database or LUTHIER_DATABASE",
            remedy="Take sqlite:///FILE.",
            code="database_url",
        )
    if kind == "sqlite":  # absolute: processes that are started elsewhere must mean the same file
        return address.set(drivername="sqlite", database=str(Path(str(address.database)).absolute()))
    return address.set(drivername="postgresql+psycopg")


def _postgres(address: URL) -> Engine:
    try:
        engine = create_engine(
            address,
            pool_pre_ping=True,
            pool_size=CONNECTIONS,
            max_overflow=3 * CONNECTIONS,
            connect_args={"connect_timeout": 10},
            hide_parameters=True,  # hashes of keys, secrets of webhooks
        )
    except ImportError as error:
        remedy = 'pip install "luthier[postgres]"'
        raise MissingPart("PostgreSQL's driver is not installed.", where="psycopg", remedy=remedy) from error

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.execute(f"SET lock_timeout = {int(PATIENCE * 1000)}")
        connection.commit()

    return engine


def _sqlite(address: URL) -> Engine:
    file = Path(address.database or "")
    with storing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        address, connect_args={"timeout": PATIENCE}, pool_size=CONNECTIONS, max_overflow=3 * CONNECTIONS, hide_parameters=True
    )

    @event.listens_for(engine, "do_connect")
    def for_its_owner(*_: Any) -> None:
        make_private(file)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        _write_ahead(connection)
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        if connection.get_execution_options().get("luthier_read", False):
            connection.exec_driver_sql("BEGIN")
        else:
            _begin_to_write(connection)

    return engine


def _begin_to_write(connection: Any) -> None:
    """Wait for one's turn. SQLite's own patience asks ever more seldom, so whoever has waited long loses to whoever has just come: eight
    writers on a busy machine waited up to 14 s. Here the longest waiting ask most often (docs/log.md).
    """
    raw, began = connection.connection.driver_connection, time.monotonic()
    raw.execute("PRAGMA busy_timeout = 0")
    try:
        while (waited := time.monotonic() - began) < PATIENCE:
            try:
                raw.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorname != "SQLITE_BUSY":
                    break
                time.sleep(random.uniform(0.0, 0.006) / (1 + 4 * waited))
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # once more, for an error that SQLAlchemy knows
    finally:
        raw.execute(f"PRAGMA busy_timeout = {int(PATIENCE * 1000)}")


def make_private(file: Path) -> None:
    """Make an empty file, where there is none, that only its owner may read; SQLite gives its journals the same rights."""
    with suppress(OSError):  # SQLite will say what is wrong with the place
        os.close(os.open(file, os.O_CREAT | os.O_EXCL, 0o600))


def _write_ahead(connection: Any) -> None:
    """Turn on WAL. Changing the mode of a new file takes a lock that SQLite's own patience does not cover, so we wait for it here."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname not in ("SQLITE_BUSY", "SQLITE_BUSY_RECOVERY") or time.monotonic() > end:
                raise
            time.sleep(0.01)
