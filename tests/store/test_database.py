"""The door to the database: transactions, what it complains of in our words, many writers at once."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from luthier.core.errors import SpecError, StorageError
from luthier.store import database as door
from luthier.store import ids, upgrade
from luthier.store.database import Database, afterwards, exclusive
from luthier.store.tables.tenants import Organisation


def organisation(name: str) -> Organisation:
    return Organisation(id=ids.new("org-"), name=name)


def names(database: Database) -> list[str]:
    with database.read() as session:
        return list(session.scalars(select(Organisation.name).order_by(Organisation.n)))


def _stopped(database: Database, deed: Callable[[Session], None]) -> None:
    with database.write() as session:
        deed(session)
        session.flush()
        raise RuntimeError("stop")


def test_a_transaction_is_kept_whole_or_not_at_all(database: Database) -> None:
    with database.write() as session:
        session.add(organisation("kept"))
    with pytest.raises(RuntimeError, match="stop"):
        _stopped(database, lambda session: session.add(organisation("lost")))
    assert names(database) == ["kept"]


def test_what_was_read_stays_readable(database: Database) -> None:
    with database.write() as session:
        session.add(made := organisation("one"))
    assert made.name == "one" and made.n == 1


def test_reading_keeps_nothing(database: Database) -> None:
    with database.read() as session:
        session.add(organisation("lost"))
        session.flush()
    assert names(database) == []


def test_what_follows_a_commit_does_not_follow_a_rollback(database: Database) -> None:
    heard: list[list[str]] = []
    with database.write() as session:
        session.add(organisation("one"))
        afterwards(session, lambda: heard.append(names(database)))
        assert heard == []
    with pytest.raises(RuntimeError, match="stop"):
        _stopped(database, lambda session: afterwards(session, lambda: heard.append([])))
    assert heard == [["one"]]


def test_a_taken_name_is_told_as_it_is(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write() as session:
        session.add_all([organisation("one"), organisation("one")])


def test_a_bug_of_ours_is_no_trouble_of_the_database(database: Database) -> None:
    with pytest.raises(DBAPIError, match="SELEKT"), database.read() as session:
        session.execute(text("SELEKT"))


def test_tables_that_are_not_there(empty_database_url: str) -> None:
    database = Database.connect(empty_database_url)
    with pytest.raises(StorageError, match="luthier database upgrade") as raised:
        names(database)
    database.close()
    assert raised.value.code == "database_tables"


def test_a_busy_database_says_so(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "PATIENCE", 0.2)
    hasty = Database.connect(database.engine.url.render_as_string(hide_password=False))
    with database.write() as session:
        exclusive(session, "a thing")
        with pytest.raises(StorageError, match="Others held the database for too long") as raised, hasty.write() as other:
            exclusive(other, "a thing")
    hasty.close()
    assert raised.value.code == "database_busy" and "Try again" in raised.value.remedy


@pytest.mark.parametrize(
    "url", ["", "mysql://root:secret@host/x", "sqlite://", "sqlite:///:memory:", "not an address", "http://secret@host/"]
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(SpecError, match="LUTHIER_DATABASE") as raised:
        Database.connect(url)
    assert raised.value.code == "database_url" and "secret" not in str(raised.value)


def test_a_file_is_the_same_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database.connect("sqlite:///x.db")
    assert database.file == tmp_path / "x.db" and str(database.engine.url) == f"sqlite:///{tmp_path}/x.db"


def test_a_server_that_is_not_there_is_told_without_its_password() -> None:
    database = Database.connect("postgresql://luthier:secret@127.0.0.1:1/nothing")
    with pytest.raises(StorageError, match="cannot be reached") as raised, database.read():
        pass
    assert raised.value.code == "database_unreachable" and "secret" not in str(raised.value) and "127.0.0.1" in raised.value.where


def test_a_database_that_is_not_there(cluster: Any) -> None:
    database = Database.connect(cluster.url("nothing"))
    with pytest.raises(StorageError) as raised, database.read():
        pass
    assert raised.value.code == "database_unreachable"


def _cut_within(database: Database, other: Database) -> None:
    with database.read() as session:
        with other.write() as cutting:
            cutting.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'cut'"))
        session.execute(text("SELECT 1"))


def test_a_connection_that_was_cut_is_made_again(cluster: Any, postgres_template: str) -> None:
    database = Database.connect(cluster.create("cut", template=postgres_template))
    assert names(database) == []
    other = Database.connect(cluster.url("postgres"))
    with other.write() as session:
        session.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'cut'"))
    assert names(database) == []
    with pytest.raises(StorageError, match="cannot be reached") as raised:
        _cut_within(database, other)
    assert raised.value.code == "database_unreachable"
    for one in (database, other):
        one.close()
    cluster.drop("cut")


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    database = upgrade.open_database(f"sqlite:///{tmp_path / 'new' / 'luthier.db'}")
    with database.write():
        found = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert found == {"luthier.db": 0o600, "luthier.db-wal": 0o600, "luthier.db-shm": 0o600}


def test_errors_do_not_show_what_was_written(database: Database) -> None:
    with pytest.raises(IntegrityError) as raised, database.write() as session:
        session.add_all([Organisation(id="org-secret", name="one"), Organisation(id="org-secret", name="two")])
    assert "two" not in str(raised.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("These are not the rows you are looking for. " * 100)
    with pytest.raises(StorageError, match="luthier restore") as raised, Database.connect(f"sqlite:///{tmp_path}/x.db").read():
        pass
    assert raised.value.code == "database_damaged"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Could not write"):
        Database.connect(f"sqlite:///{tmp_path}/file/x.db")


FILLING = """
    import resource, sys
    from luthier.core.errors import StorageError
    from luthier.store import ids, upgrade
    from luthier.store.database import Database
    from luthier.store.tables.tenants import Organisation

    database = Database.connect(sys.argv[1])
    with database.write() as session:
        session.add(Organisation(id=ids.new("org-"), name="before"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    try:
        for number in range(100):
            with database.write() as session:
                session.add(Organisation(id=ids.new("org-"), name=str(number) + "x" * 50_000))
        sys.exit("the disk was never full")
    except StorageError as error:
        print(error.code, number)
"""


def test_a_full_disk_keeps_what_was_saved_before(sqlite_template: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'luthier.db'}"
    (tmp_path / "luthier.db").write_bytes(sqlite_template.read_bytes())
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(FILLING), url], capture_output=True, text=True, check=True)
    code, number = done.stdout.split()
    assert code in ("database_full", "database_disk")
    assert len(names(Database.connect(url))) == 1 + int(number)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


WRITING = """
    import alembic.command, os, sys
    from luthier.store import ids, upgrade
    from luthier.store.upgrade import open_database
    from luthier.store.tables.tenants import Organisation

    def write(writer):
        database = open_database(sys.argv[1])
        for number in range(20):
            with database.write() as session:
                session.add(Organisation(id=ids.new("org-"), name=f"{writer}-{number}"))

    children = []
    for writer in range(8):
        if not (child := os.fork()):
            write(writer)
            os._exit(0)
        children.append(child)
    sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_eight_processes_start_and_write_at_once(empty_database_url: str) -> None:
    """All of them find no tables, make them once, and no write fails."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(WRITING), empty_database_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    database = Database.connect(empty_database_url)
    assert len(names(database)) == 160
    database.close()
