"""`luthier jobs` on the database itself."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from luthier.cli.main import dispatch


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LUTHIER_DATABASE", raising=False)
    file = tmp_path / "rows.jsonl"
    file.write_text('{"messages": []}\n')
    return file


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:  # type: ignore[type-arg]
    assert dispatch(["jobs", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_a_job_is_made_listed_shown_followed_and_ended(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = told(capsys, "create", str(rows), "--suffix", "desk", "--set", "train.epochs=2", "--set", "method.rank=4")
    assert (made["state"], made["model"], made["suffix"]) == ("validating_files", "luthier-mini", "desk")
    again = told(capsys, "create", made["training_file"], "--valid", made["training_file"])
    assert [job["id"] for job in told(capsys, "list")["jobs"]] == [again["id"], made["id"]]
    assert told(capsys, "show", made["id"])["queue_position"] == 1
    assert dispatch(["jobs", "show", made["id"]]) == 0
    shown = capsys.readouterr().out
    assert "supervised: n_epochs auto, batch_size auto" in shown and time.strftime("%Y-%m-%d", time.gmtime(made["created_at"])) in shown
    assert told(capsys, "cancel", made["id"])["state"] == "cancelled"
    assert dispatch(["jobs", "events", made["id"], "--follow"]) == 0
    assert [line.split("  ")[1] for line in capsys.readouterr().out.splitlines()] == [
        "The job was made: luthier-mini learns from rows.jsonl.",
        "Its files are being checked.",
        "The job was cancelled.",
    ]
    assert dispatch(["jobs", "list"]) == 0
    assert "cancelled" in capsys.readouterr().out


def test_what_cannot_be_done_is_told(rows: Path) -> None:
    from luthier.core.errors import NotFound, SpecError

    with pytest.raises(NotFound, match="There is no job ftjob-x"):
        dispatch(["jobs", "pause", "ftjob-x"])
    with pytest.raises(NotFound, match="There is no file nowhere here"):
        dispatch(["jobs", "create", "nowhere"])
    with pytest.raises(SpecError, match="Did you mean rank"):
        dispatch(["jobs", "create", str(rows), "--set", "method.rnk=4"])
    with pytest.raises(NotFound):
        dispatch(["jobs", "list", "--project", "other"])
    with pytest.raises(SpecError, match="say it as cpu=1"):
        dispatch(["worker", "--slot", "cpu"])


def worker() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "luthier", "worker", "--slot", "cpu=1", "--with-parent"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def workers(home: Path) -> list[int]:
    """Numbers of the processes that take jobs."""
    from sqlalchemy import select

    from luthier.store.database import Database
    from luthier.store.tables.jobs import Worker

    database = Database.connect(f"sqlite:///{home / 'luthier.db'}")
    try:
        with database.read() as session:
            return list(session.scalars(select(Worker.pid)))
    finally:
        database.close()


def test_a_worker_leaves_with_whoever_started_it_and_the_next_one_waits_for_that(rows: Path, tmp_path: Path) -> None:
    assert dispatch(["jobs", "list"]) == 0
    first, second = worker(), worker()
    end = time.monotonic() + 60
    while not (here := workers(tmp_path / "home")):
        assert time.monotonic() < end
        time.sleep(0.05)
    leaving, waiting = (first, second) if here == [first.pid] else (second, first)
    assert leaving.communicate(timeout=60)[1].endswith("takes jobs: 1 on cpu\n"), "its standard input ends"
    assert leaving.returncode == 0
    while workers(tmp_path / "home") != [waiting.pid]:
        assert time.monotonic() < end
        time.sleep(0.05)
    waiting.communicate(timeout=60)
    assert (waiting.returncode, workers(tmp_path / "home")) == (0, [])
