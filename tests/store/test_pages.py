"""A page of a list: in order, by the last id, within its scope, through an index."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.dialects import postgresql, sqlite

from luthier.core.errors import NotFound, SpecError
from luthier.security import tenants
from luthier.store import ids
from luthier.store.audit import LOCAL
from luthier.store.database import Database
from luthier.store.pages import page
from luthier.store.tables.batches import Batch
from luthier.store.tables.chats import StoredCompletion
from luthier.store.tables.files import File
from luthier.store.tables.jobs import Job
from luthier.store.tables.models import TunedModel


@pytest.fixture
def rooms(database: Database) -> tuple[str, str]:
    """Two projects whose files were made in turn: 0, 2, 4 ... lie in the first."""
    with database.write() as session:
        home = tenants.create_organisation(session, LOCAL, "one")
        projects = [tenants.create_project(session, LOCAL, home.id, name) for name in ("here", "there")]
        for number in range(20):
            session.add(
                File(
                    id=f"file-{number}", project_id=projects[number % 2].id, filename="x", purpose="batch", bytes=1, digest=f"{number:064}"
                )
            )
            session.flush()
    return projects[0].id, projects[1].id


def numbers(database: Database, *where: Any, **how: Any) -> tuple[list[int], bool]:
    with database.read() as session:
        found = page(session, File, *where, **how)
    return [int(file.id.removeprefix("file-")) for file in found.rows], found.has_more


def test_pages_follow_each_other_and_end(database: Database, rooms: tuple[str, str]) -> None:
    here = File.project_id == rooms[0]
    assert numbers(database, here, limit=4) == ([18, 16, 14, 12], True)
    assert numbers(database, here, limit=4, after="file-12") == ([10, 8, 6, 4], True)
    assert numbers(database, here, limit=4, after="file-4") == ([2, 0], False)
    assert numbers(database, here, limit=4, after="file-0") == ([], False)
    assert numbers(database, here, limit=10) == (list(range(18, -1, -2)), False)
    assert numbers(database, here, limit=3, order="asc", after="file-14") == ([16, 18], False)


def test_a_cursor_of_another_project_is_not_there(database: Database, rooms: tuple[str, str]) -> None:
    for cursor in ("file-1", "file-99", "' OR 1=1 --"):
        with pytest.raises(NotFound, match="No item of this list has the id") as raised:
            numbers(database, File.project_id == rooms[0], after=cursor)
        assert raised.value.code == "bad_cursor"


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_a_page_has_a_size(database: Database, limit: int) -> None:
    with pytest.raises(SpecError, match="A page has 1 to 10,000 items"):
        numbers(database, limit=limit)


@pytest.mark.parametrize("table", [Job, File, Batch, StoredCompletion, TunedModel], ids=lambda table: table.__tablename__)
def test_no_list_of_a_project_sorts_or_reads_the_whole_table(database: Database, table: Any) -> None:
    query = _query_of_page(table)
    if database.is_sqlite:
        words = query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
        with database.read() as session:
            plan = str(session.execute(text(f"EXPLAIN QUERY PLAN {words}")).all())
        assert f"USING INDEX ix_{table.__tablename__}_project_n" in plan and "TEMP B-TREE" not in plan
    else:
        words = query.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
        with database.write() as session:
            session.execute(text("SET LOCAL enable_seqscan = off"))
            session.execute(text("SET LOCAL enable_bitmapscan = off"))  # the planner's choice for an empty table
            plan = "\n".join(session.scalars(text(f"EXPLAIN {words}")))
        assert "Index Scan" in plan and "Sort" not in plan


def _query_of_page(table: Any) -> Any:
    """The query that `page` sends, caught on its way."""
    caught = []

    class Ear:
        def scalar(self, query: Any) -> int:
            return 1000

        def scalars(self, query: Any) -> list[Any]:
            caught.append(query)
            return []

    page(Ear(), table, table.project_id == "proj_x", after="x", limit=20)  # type: ignore[arg-type]
    return caught[0]


def test_many_rows_are_listed_through_an_index(database: Database, rooms: tuple[str, str]) -> None:
    """Ten thousand jobs; bench/store.py has a hundred thousand and a clock."""
    with database.write() as session:
        session.execute(
            insert(Job),
            [
                {"id": ids.new("ftjob-"), "project_id": rooms[number % 2], "model": "m", "training_file": "f", "seed": 1, "method": {}}
                | {"spec": {}, "request_digest": ""}
                for number in range(10_000)
            ],
        )
    with database.read() as session:
        first = page(session, Job, Job.project_id == rooms[0], limit=100)
        last = page(session, Job, Job.project_id == rooms[0], limit=100, after=first.rows[-1].id)
    assert [job.n for job in first.rows + last.rows] == sorted((job.n for job in first.rows + last.rows), reverse=True)
    assert {job.project_id for job in first.rows} == {rooms[0]} and first.has_more and last.has_more
