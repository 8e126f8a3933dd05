"""The one door to SQLAlchemy's engine: SQLite in a file by default, PostgreSQL by URL.

    database = Database.connect(url)
    with database.write() as session: ...  # one transaction; committed at the end, rolled back by any exception
    with database.read() as session: ...

SQLite allows one writer at a time. A plain BEGIN takes the right to write only at the first write and then fails when another was
faster; BEGIN IMMEDIATE waits for it at once, up to `PATIENCE` seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from luthier.core.home import home

PATIENCE = 30.0
"""Seconds a writer waits for the one before it."""


def default_url() -> str:
    """SQLite in ``LUTHIER_HOME``."""
    return f"sqlite:///{home() / 'luthier.db'}"


@dataclass(frozen=True)
class Database:
    """An engine and its sessions. Objects stay readable after their session has ended (nothing expires on commit)."""

    engine: Engine
    _sessions: sessionmaker[Session]

    @classmethod
    def connect(cls, url: str) -> Database:
        """A database as it is; nothing is created but the folder SQLite's file lies in."""
        engine = _sqlite(url) if url.startswith("sqlite") else create_engine(url, pool_pre_ping=True)
        return cls(engine, sessionmaker(engine, expire_on_commit=False))

    @property
    def is_sqlite(self) -> bool:
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that may write."""
        with self._sessions.begin() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that only reads; on SQLite it never waits for a writer."""
        with self._sessions() as session:
            session.connection(execution_options={"luthier_read": True})
            yield session

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


def _sqlite(url: str) -> Engine:
    file = url.removeprefix("sqlite:///")
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": PATIENCE})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        reads = connection.get_execution_options().get("luthier_read", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
