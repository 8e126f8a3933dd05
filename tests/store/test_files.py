"""Files of a project: added, listed, deleted, expired; audited with the deed; not there for another project."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from sqlalchemy import select, update

from luthier.core.errors import NotFound, SpecError
from luthier.store import audit, files
from luthier.store.audit import LOCAL, Deputy
from luthier.store.blobs import Blobs
from luthier.store.sweep import sweep
from luthier.store.tables.files import File
from luthier.store.tables.operation import Audit


def add(blobs: Blobs, who: Deputy, content: bytes = b"rows", **how: Any) -> File:
    stored = blobs.put([content], most=1000)
    with blobs.database.write() as session:
        return files.add(session, who, stored, **{"filename": "tickets.jsonl", "purpose": "fine-tune"} | how)


def ids_of(blobs: Blobs, who: Deputy, **how: Any) -> list[str]:
    with blobs.database.read() as session:
        return [file.id for file in files.listed(session, str(who.project_id), **how).rows]


def deeds(blobs: Blobs) -> list[tuple[str, str, str | None]]:
    with blobs.database.read() as session:
        rows = session.scalars(select(Audit).where(Audit.action.like("file.%")).order_by(Audit.n))
        return [(row.actor, row.action, row.project_id) for row in rows]


def test_a_file_is_added_found_and_deleted(blobs: Blobs, who: Deputy) -> None:
    file = add(blobs, who)
    assert file.id.startswith("file-") and (file.bytes, file.status, file.expires_at) == (4, "uploaded", None)
    with blobs.database.read() as session:
        assert files.get(session, str(who.project_id), file.id).filename == "tickets.jsonl"
    with blobs.database.write() as session:
        assert files.delete(session, who, blobs, file.id).id == file.id
    with pytest.raises(NotFound, match="There is no file") as raised, blobs.database.write() as session:
        files.delete(session, who, blobs, file.id)
    assert raised.value.code == "unknown_file"
    assert deeds(blobs) == [("key_ours", "file.create", who.project_id), ("key_ours", "file.delete", who.project_id)]


def test_another_project_s_file_is_not_there(blobs: Blobs, who: Deputy, stranger: Deputy) -> None:
    file = add(blobs, who)
    with pytest.raises(NotFound), blobs.database.read() as session:
        files.get(session, str(stranger.project_id), file.id)
    with pytest.raises(NotFound), blobs.database.write() as session:
        files.delete(session, stranger, blobs, file.id)
    assert ids_of(blobs, stranger) == [] and ids_of(blobs, who) == [file.id]


def test_files_are_listed_by_purpose(blobs: Blobs, who: Deputy) -> None:
    made = [add(blobs, who, purpose=purpose) for purpose in ("fine-tune", "batch", "fine-tune", "batch_output")]
    assert ids_of(blobs, who) == [file.id for file in reversed(made)]
    assert ids_of(blobs, who, purpose="fine-tune", order="asc") == [made[0].id, made[2].id]
    assert ids_of(blobs, who, after=made[2].id, limit=1) == [made[1].id]


def test_an_expired_file_is_not_there_even_before_it_is_swept(blobs: Blobs, who: Deputy) -> None:
    lasting, passing = add(blobs, who, b"a"), add(blobs, who, b"b", expires_after=3600)
    assert passing.expires_at == pytest.approx(passing.created_at + 3600)
    with blobs.database.write() as session:
        session.execute(update(File).where(File.id == passing.id).values(expires_at=time.time() - 1))
    assert ids_of(blobs, who) == [lasting.id]
    with pytest.raises(NotFound), blobs.database.read() as session:
        files.get(session, str(who.project_id), passing.id)
    assert sweep(blobs) == {"files": 1, "uploads": 0, "blobs": 0}
    assert ("clock", "file.expire", who.project_id) in deeds(blobs)
    with blobs.database.read() as session:
        assert list(session.scalars(select(File.id))) == [lasting.id]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("a\r\nSet-Cookie: x", r"has the control character U\+000D"),
        ("a\x00b", r"has the control character U\+0000"),
        ("a\u2028b", r"has the control character U\+2028"),
        ("../../etc/passwd", "is a path"),
        ("C:\\x", "is a path"),
        ("..", "is a path"),
        ("ü" * 128, "is longer than 255 bytes"),
    ],
)
def test_names_that_would_surprise_are_refused(name: str, why: str) -> None:
    with pytest.raises(SpecError, match=f"The file's name {why}") as raised:
        files.check_name(name)
    assert raised.value.code == "bad_filename"


@pytest.mark.parametrize("name", ["tickets.jsonl", "Ünïcödé 文件.jsonl", "..hidden", "a" * 255])
def test_names_of_people_are_taken(name: str) -> None:
    files.check_name(name)


def test_a_purpose_that_is_none() -> None:
    with pytest.raises(SpecError, match=r"There is no purpose 'fine_tune'\. Did you mean fine-tune\?") as raised:
        files.check_purpose("fine_tune")
    assert raised.value.code == "bad_purpose"
    with pytest.raises(SpecError):
        files.check_purpose("batch_output")


def test_a_refused_file_keeps_nothing(blobs: Blobs, who: Deputy) -> None:
    stored = blobs.put([b"x"], most=1)
    with pytest.raises(SpecError), blobs.database.write() as session:
        files.add(session, who, stored, filename="a/b", purpose="batch")
    blobs.drop(stored)
    assert ids_of(blobs, who) == [] and deeds(blobs) == []


def test_what_cannot_be_audited_does_not_happen(blobs: Blobs, who: Deputy, monkeypatch: pytest.MonkeyPatch) -> None:
    file = add(blobs, who)

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("the audit is full")

    with monkeypatch.context() as broken:
        broken.setattr(audit, "record", full)
        with pytest.raises(RuntimeError, match="the audit is full"), blobs.database.write() as session:
            files.delete(session, who, blobs, file.id)
    assert ids_of(blobs, who) == [file.id] and b"".join(blobs.read(file.digest)) == b"rows"


def test_the_audit_keeps_its_place_for_the_chain(blobs: Blobs, who: Deputy) -> None:
    with blobs.database.write() as session:
        audit.record(session, who, "file.create", "file-x", request_id="req_1", bytes=3)
    with blobs.database.read() as session:
        row = session.scalars(select(Audit).where(Audit.subject == "file-x")).one()
    assert (row.organisation_id, row.request_id, row.details, row.chain) == (who.organisation_id, "req_1", {"bytes": 3}, None)


def test_who_acts_in_no_project_has_no_files(blobs: Blobs, who: Deputy) -> None:
    stored = blobs.put([b"x"], most=1)
    with pytest.raises(SpecError, match="local acts in no project") as raised, blobs.database.write() as session:
        files.add(session, LOCAL, stored, filename="x", purpose="batch")
    assert raised.value.code == "no_project"


def test_a_file_is_deleted_once(blobs: Blobs, who: Deputy) -> None:
    """Of eight who delete it at once, one does; the others do not find it."""
    file = add(blobs, who)
    outcomes: list[str] = []

    def delete() -> None:
        try:
            with blobs.database.write() as session:
                files.delete(session, who, blobs, file.id)
            outcomes.append("deleted")
        except NotFound:
            outcomes.append("not there")

    threads = [threading.Thread(target=delete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["deleted", *["not there"] * 7]
