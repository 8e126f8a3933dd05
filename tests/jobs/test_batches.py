"""Files of requests: every line answered once, whatever happens in between."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from luthier.core.errors import ResultError
from luthier.core.example import Message
from luthier.inference.serving.ask import Asked
from luthier.jobs import batch_work
from luthier.jobs.batch_lines import Journal, Reply, Request
from luthier.jobs.batches import Batches
from luthier.jobs.serving import Host
from luthier.store import files
from luthier.store.audit import Deputy
from luthier.store.blobs import Blobs
from luthier.store.database import Database
from luthier.store.tables.batches import Batch
from luthier.store.tables.files import File

from . import tuned
from .test_serving import SMALL

CHAT = "/v1/chat/completions"


@pytest.fixture
def blobs(database: Database, tmp_path: Path) -> Blobs:
    return Blobs.open(database, str(tmp_path / "blobs"))


@pytest.fixture
def project(database: Database) -> str:
    return tuned.project(database)


def line(number: int, **changes: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": f"question {number}"}]}
    return {"custom_id": f"q{number}", "method": "POST", "url": CHAT, "body": body, **changes}


def batch(database: Database, blobs: Blobs, project: str, lines: list[Any], **changes: Any) -> str:
    raw = b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines)
    stored = blobs.put([raw], most=1 << 30)
    with database.write() as session:
        file = files.add(session, Deputy("test", None, project), stored, filename="in.jsonl", purpose="batch")
        facts = {"project_id": project, "endpoint": CHAT, "completion_window": "24h", "input_file_id": file.id, **changes}
        session.add(made := Batch(id=f"batch_{file.id[5:]}", **facts))
    return made.id


def look(database: Database, id: str) -> Batch:
    with database.read() as session:
        return session.scalars(select(Batch).where(Batch.id == id)).one()


def content(database: Database, blobs: Blobs, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    with database.read() as session:
        digest = session.scalars(select(File).where(File.id == file_id)).one().digest
    return [json.loads(row) for row in b"".join(blobs.read(digest)).splitlines()]


def echo(request: Request) -> Reply:
    words = request.body["messages"][0]["content"]
    if "bad" in words:
        return Reply(400, {"error": {"message": "bad"}})
    if "broken" in words:
        raise ResultError("It broke.", code="answer_failed")
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 1}}
    return Reply(200, {"said": words, "usage": usage})


def test_every_line_is_answered_and_errors_have_a_file_of_their_own(database: Database, blobs: Blobs, project: str) -> None:
    bodies = {3: "bad", 5: "broken"}
    lines = [line(n, body={"model": "tiny", "messages": [{"content": bodies.get(n, f"question {n}")}]}) for n in range(20)]
    id = batch(database, blobs, project, lines, output_expires={"anchor": "created_at", "seconds": 3600})
    asked: list[Request] = []
    assert Batches(database, blobs, lambda request: (asked.append(request), echo(request))[1], at_once=4).work()
    done = look(database, id)
    assert (done.state, done.counts, done.model) == ("completed", {"total": 20, "completed": 18, "failed": 2}, "tiny")
    assert list(done.times) == ["in_progress_at", "finalizing_at", "completed_at"] and done.lease_until is None
    assert (
        done.usage["input_tokens"] == 54 and done.usage["total_tokens"] == 90 and done.usage["input_tokens_details"]["cached_tokens"] == 18
    )
    answers, errors = content(database, blobs, done.output_file_id), content(database, blobs, done.error_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"q{n}" for n in range(20) if n not in bodies]
    assert answers[0]["response"]["status_code"] == 200 and answers[0]["response"]["body"]["said"] == "question 0"
    assert [(error["custom_id"], error["response"] and error["response"]["status_code"]) for error in errors] == [("q3", 400), ("q5", None)]
    assert errors[1]["error"] == {"code": "answer_failed", "message": "It broke."}
    assert {request.project_id for request in asked} == {project}
    with database.read() as session:
        file = session.scalars(select(File).where(File.id == done.output_file_id)).one()
    assert (file.purpose, file.filename, file.expires_at and round(file.expires_at - file.created_at)) == (
        "batch_output",
        f"{id}_output.jsonl",
        3600,
    )
    assert not Batches(database, blobs, echo).work(), "nothing is left"


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (b"{not json", "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (line(1, custom_id=""), "missing_required_parameter", "custom_id"),
        (line(0), "duplicate_custom_id", "custom_id"),
        (line(1, method="GET"), "invalid_method", "method"),
        (line(1, url="/v1/embeddings"), "mismatched_endpoint", "url"),
        (line(1, body={"messages": []}), "missing_required_parameter", "body.model"),
    ],
)
def test_a_bad_line_is_told_before_anything_is_asked(
    database: Database, blobs: Blobs, project: str, bad: Any, code: str, param: str | None
) -> None:
    id = batch(database, blobs, project, [line(0), bad])

    def never(request: Request) -> Reply:
        raise AssertionError

    Batches(database, blobs, never).work()
    done = look(database, id)
    assert done.state == "failed" and "failed_at" in done.times
    assert [(error["code"], error["line"], error["param"]) for error in done.errors] == [(code, 2, param)]


def test_a_file_that_is_empty_or_gone_is_told(database: Database, blobs: Blobs, project: str) -> None:
    empty = batch(database, blobs, project, [])
    gone = batch(database, blobs, project, [line(0)])
    with database.write() as session:
        files.delete(session, Deputy("test", None, project), blobs, look(database, gone).input_file_id)
    batches = Batches(database, blobs, echo)
    assert batches.work() and batches.work() and not batches.work()
    assert [look(database, id).errors[0]["code"] for id in (empty, gone)] == ["empty_file", "unknown_file"]


def test_a_cancelled_batch_keeps_what_it_has(database: Database, blobs: Blobs, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_work, "BEAT", 0.0)
    id = batch(database, blobs, project, [line(n) for n in range(50)])
    count = 0

    def answer(request: Request) -> Reply:
        nonlocal count
        count += 1
        if count == 5:
            with database.write() as session:
                session.scalars(select(Batch).where(Batch.id == id)).one().state = "cancelling"
        return echo(request)

    Batches(database, blobs, answer, at_once=1).work()
    done = look(database, id)
    assert done.state == "cancelled" and 5 <= done.counts["completed"] <= 7
    assert len(content(database, blobs, done.output_file_id)) == done.counts["completed"] and done.error_file_id is None


def test_when_time_is_up_the_rest_is_told_so(database: Database, blobs: Blobs, project: str) -> None:
    id = batch(database, blobs, project, [line(n) for n in range(6)], created_at=time.time() - 24 * 3600)
    Batches(database, blobs, echo).work()
    done = look(database, id)
    assert done.state == "expired" and done.counts == {"total": 6, "completed": 0, "failed": 6}
    assert {error["error"]["code"] for error in content(database, blobs, done.error_file_id)} == {"batch_expired"}


def test_who_is_told_to_come_later_asks_again(database: Database, blobs: Blobs, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_work, "PATIENCE", 0.0)
    id = batch(database, blobs, project, [line(n) for n in range(4)])
    refused = set(range(4))

    def answer(request: Request) -> Reply:
        number = int(request.body["messages"][0]["content"].split()[1])
        if number in refused:
            refused.remove(number)
            return Reply(503, {})
        return echo(request)

    Batches(database, blobs, answer).work()
    assert look(database, id).counts == {"total": 4, "completed": 4, "failed": 0} and not refused


def test_a_stopped_service_goes_on_later_and_asks_nothing_twice(database: Database, blobs: Blobs, project: str) -> None:
    id = batch(database, blobs, project, [line(n) for n in range(30)])
    asked: list[str] = []
    seven = threading.Event()

    def answer(request: Request) -> Reply:
        asked.append(request.body["messages"][0]["content"])
        if len(asked) == 7:
            seven.set()
        return echo(request)

    first = Batches(database, blobs, answer, at_once=2)
    first.start()
    first.poke()
    assert seven.wait(60)
    first.close()
    held = look(database, id)
    if held.state != "completed":
        assert held.lease_until is None, "nobody waits for a lease of a service that stopped"
        Batches(database, blobs, answer).work()
    assert look(database, id).state == "completed" and len(asked) == len(set(asked)) == 30


def test_whoever_lost_a_batch_writes_nothing(database: Database, blobs: Blobs, project: str) -> None:
    id = batch(database, blobs, project, [line(n) for n in range(3)])

    def answer(request: Request) -> Reply:
        with database.write() as session:
            session.scalars(select(Batch).where(Batch.id == id)).one().token = 99
        return echo(request)

    assert Batches(database, blobs, answer).work()
    after = look(database, id)
    assert (after.state, after.token, after.output_file_id) == ("in_progress", 99, None)


KILLED = """
    import os, signal, sys
    from luthier.jobs.batch_lines import Reply
    from luthier.jobs.batches import Batches
    from luthier.store.blobs import Blobs
    from luthier.store.database import Database

    database, folder, after = Database.connect(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    count = 0

    def answer(request):
        global count
        count += 1
        if count > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return Reply(200, {"said": request.body["messages"][0]["content"]})

    Batches(database, Blobs.open(database, folder), answer, at_once=3).work()
"""


def test_kill_9_at_any_line_loses_and_repeats_nothing(database: Database, blobs: Blobs, project: str, tmp_path: Path) -> None:
    id = batch(database, blobs, project, [line(n) for n in range(24)])
    script = tmp_path / "killed.py"
    script.write_text(textwrap.dedent(KILLED))
    for after in (0, 5, 9, 100):
        url = database.engine.url.render_as_string(hide_password=False)
        subprocess.run(
            [sys.executable, str(script), url, str(tmp_path / "blobs"), str(after)], check=False, capture_output=True, timeout=120
        )
        with database.write() as session:  # as if the lease had run out
            session.scalars(select(Batch).where(Batch.id == id)).one().lease_until = None
    done = look(database, id)
    assert done.state == "completed" and done.token == 4 and done.counts == {"total": 24, "completed": 24, "failed": 0}
    assert [answer["custom_id"] for answer in content(database, blobs, done.output_file_id)] == [f"q{n}" for n in range(24)]


def test_half_a_line_in_the_journal_is_asked_again() -> None:
    journal = Journal("batch_x")
    for number in (1, 2, 3):
        journal.add(number, {"said": number}, is_error=number == 2)
    journal.close()
    file = journal.folder / "answers.jsonl"
    file.write_bytes(file.read_bytes()[:-4])
    again = Journal("batch_x")
    assert again.done == {1, 2} and again.failed == 1
    again.add(3, {"said": 3}, is_error=False)
    assert [json.loads(raw) for raw in again.answers(errors=False)] == [{"said": 1}, {"said": 3}]
    again.close(remove=True)
    assert not again.folder.exists()


def test_lines_are_answered_by_the_host(database: Database, blobs: Blobs, project: str, tiny_base: Path) -> None:
    """A real model behind it; the wire is left out."""
    tuned.place(tiny_base)
    host = Host(database, blobs, SMALL)

    def answer(request: Request) -> Reply:
        messages = [Message(**message) for message in request.body["messages"]]
        asked = Asked(model=request.body["model"], messages=messages, temperature=0, max_tokens=4, key=request.key)
        return Reply(200, {"said": host.ask(asked, request.project_id).whole()[0].text})

    id = batch(database, blobs, project, [line(n) for n in range(5)])
    try:
        Batches(database, blobs, answer).work()
    finally:
        host.close()
    assert look(database, id).counts["completed"] == 5
