"""Tables are those of this version: made, brought forward with a copy first, refused when newer, by one process at a time."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, text

from luthier.core.errors import StorageError
from luthier.store import upgrade
from luthier.store.database import Database
from luthier.store.tables import Table

LAST = upgrade.heads()
"""The step this version's tables are at."""


def tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names())


def at(database: Database, step: str) -> None:
    """Pretend that the tables are at another step."""
    with database.engine.begin() as connection:
        connection.execute(text(f"UPDATE {upgrade.VERSION_TABLE} SET version_num = '{step}'"))


@pytest.fixture
def second_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A version of the program that knows one step more, which makes a table anew and so must not lose rows that point to it."""
    folder = tmp_path / "steps"
    folder.mkdir()
    (folder / "next.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision = 'next', '{upgrade.heads()}'\n"
        "def upgrade():\n"
        "    with op.batch_alter_table('organisations', recreate='auto') as batch:\n"
        "        batch.add_column(sa.Column('colour', sa.String(), nullable=False, server_default='red'))\n"
        "        batch.alter_column('name', type_=sa.Text())\n"
    )
    plain = upgrade.configuration

    def with_one_more(connection: Any) -> Any:
        config = plain(connection)
        config.set_main_option("path_separator", "newline")
        known = Path(upgrade.__file__).parent / "migrations" / "versions"
        config.set_main_option("version_locations", f"{known}\n{folder}")
        return config

    monkeypatch.setattr(upgrade, "configuration", with_one_more)


def test_an_empty_database_gets_all_tables(empty_database_url: str) -> None:
    database = upgrade.open_database(empty_database_url)
    assert tables(database) == set(Table.metadata.tables) | {upgrade.VERSION_TABLE}
    assert upgrade.revision(database) == upgrade.heads() != ""
    database.close()


def test_the_steps_make_exactly_the_tables(database: Database) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": upgrade.VERSION_TABLE})
        assert compare_metadata(context, Table.metadata) == [], "python scripts/revision.py 'what changed' writes the step that is missing"


def test_opening_again_changes_nothing(database_url: str, tmp_path: Path) -> None:
    before = sorted(path.name for path in tmp_path.glob("luthier.db*"))
    upgrade.open_database(database_url).close()
    assert sorted(path.name for path in tmp_path.glob("luthier.db*")) == before


def fill(database: Database) -> None:
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO organisations (id, name, created_at) VALUES ('org-1', 'one', 1.0)"))
        connection.execute(text("INSERT INTO projects (id, organisation_id, name, created_at) VALUES ('p-1', 'org-1', 'one', 1.0)"))


def kept(database: Database) -> list[Any]:
    with database.engine.connect() as connection:
        return list(connection.execute(text("SELECT p.name, o.colour FROM projects p JOIN organisations o ON o.id = p.organisation_id")))


def test_an_older_file_is_copied_and_brought_forward(sqlite_template: Path, tmp_path: Path, second_step: None) -> None:
    file = tmp_path / "luthier.db"
    file.write_bytes(sqlite_template.read_bytes())
    fill(Database.connect(f"sqlite:///{file}"))
    database = upgrade.open_database(f"sqlite:///{file}")
    assert upgrade.revision(database) == "next" and kept(database) == [("one", "red")]
    with database.engine.connect() as connection:
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1, "connections after the upgrade are as always"
    (copy,) = tmp_path.glob("luthier.db.before-*-*")
    assert copy.stat().st_mode & 0o777 == 0o600
    old = sqlite3.connect(copy)
    assert old.execute("SELECT name FROM organisations").fetchall() == [("one",)]
    assert "colour" not in str(old.execute("SELECT sql FROM sqlite_master").fetchall())
    old.close()


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(sqlite_template: Path, tmp_path: Path, second_step: None) -> None:
    file = tmp_path / "luthier.db"
    file.write_bytes(sqlite_template.read_bytes())
    database = Database.connect(f"sqlite:///{file}")
    fill(database)
    with database.engine.connect() as connection:
        connection.connection.driver_connection.execute("PRAGMA foreign_keys = OFF")  # type: ignore[union-attr]
        with connection.begin():
            connection.execute(text("UPDATE projects SET organisation_id = 'gone'"))
    with pytest.raises(StorageError, match="would be without the organisations it belongs to; nothing was changed"):
        upgrade.open_database(f"sqlite:///{file}")
    assert upgrade.revision(database) == LAST
    assert "colour" not in {column["name"] for column in inspect(database.engine).get_columns("organisations")}


def test_an_older_postgres_is_brought_forward_only_when_asked(cluster: Any, postgres_template: str, second_step: None) -> None:
    url = cluster.create("older", template=postgres_template)
    database = Database.connect(url)
    fill(database)
    with pytest.raises(StorageError, match=r"older Luthier: its tables are at step .*pg_dump.*luthier database upgrade") as raised:
        upgrade.open_database(url)
    assert raised.value.code == "database_old"
    upgrade.upgrade(database)
    assert upgrade.revision(database) == "next" and kept(database) == [("one", "red")]
    upgrade.open_database(url).close()
    database.close()
    cluster.drop("older")


def test_a_newer_database_is_left_alone(database_url: str) -> None:
    database = Database.connect(database_url)
    at(database, "9999")
    for opening in (lambda: upgrade.open_database(database_url), lambda: upgrade.upgrade(database)):
        with pytest.raises(StorageError, match="newer Luthier: its tables are at step 9999, this version knows them up to") as raised:
            opening()
        assert raised.value.code == "database_newer"
    database.close()


def test_a_full_disk_stops_the_upgrade_before_it_begins(
    sqlite_template: Path, tmp_path: Path, second_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "luthier.db"
    file.write_bytes(sqlite_template.read_bytes())
    (tmp_path / "full").mkdir()
    monkeypatch.setattr(upgrade, "_beside", lambda file, found: tmp_path / "nowhere" / "copy")
    with pytest.raises(StorageError, match="unable to open database file"):
        upgrade.open_database(f"sqlite:///{file}")
    assert upgrade.revision(Database.connect(f"sqlite:///{file}")) == LAST
