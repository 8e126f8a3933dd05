"""The worker with real children: what is asked of a job happens when its process is gone, and nothing outlives a worker."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from luthier.core.errors import StorageError
from luthier.jobs import control, processes, queue, states, worker
from luthier.jobs.processes import MARK, Child
from luthier.jobs.queue import Claim
from luthier.jobs.worker import Settings, Worker
from luthier.store.tables.jobs import Worker as WorkerRow

from .conftest import Service

ON_SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
PATIENCE = 120.0


@pytest.fixture
def make(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Worker]]:
    """A worker of this test; its children end with it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made: list[Worker] = []

    def build(*, registered: bool = True, **changes: Any) -> Worker:
        address = service.database.engine.url.render_as_string(hide_password=False)
        made.append(Worker(service.database, Settings(address, slots={"cpu": 1}, moment=0.05, **changes)))
        if registered:
            made[-1]._register()
        return made[-1]

    yield build
    for one in made:
        for child in one.children:
            child.kill()
            child.process.wait()


def until(true: Callable[[], Any], *, looking: Worker | None = None) -> None:
    """Wait for something, letting a worker look around meanwhile."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not happen"
        if looking is not None:
            looking.look()
        time.sleep(0.05)


def queued(service: Service, rows: Path, *settings: str) -> str:
    job_id: str = service.submit(service.upload(rows), settings=settings).id
    with service.database.write() as session:
        states.move(session, queue.locked(session, job_id), "queued", "pass")
    return job_id


LONG = ("train.max_steps=2000", "train.epochs=500", "train.patience=0", "train.save_every=20")


@ON_SQLITE
def test_a_job_is_paused_with_a_checkpoint_goes_on_and_is_cancelled(
    service: Service, rows: Path, home: Path, make: Callable[..., Worker]
) -> None:
    one, job_id = make(), queued(service, rows, *LONG)
    until(lambda: len(service.events(job_id, "metrics")) > 3, looking=one)
    (child,) = one.children
    assert (service.job(job_id).child, os.getpgid(child.process.pid)) == (child.process.pid, child.process.pid)
    control.pause(service.database, job_id, service.who)
    assert service.job(job_id).state == "running", "not before it has stopped"
    until(lambda: service.job(job_id).state == "paused", looking=one)
    assert (child.process.returncode, one.children, service.job(job_id).worker_id) == (processes.STOPPED, [], None)
    stopped = len(service.events(job_id, "metrics"))
    control.resume(service.database, job_id, service.who)
    until(lambda: len(service.events(job_id, "metrics")) > stopped, looking=one)
    assert [event.data["step"] for event in service.events(job_id, "metrics")][: stopped + 1] == list(range(1, stopped + 2))
    (child,) = one.children
    control.cancel(service.database, job_id, service.who)
    until(lambda: service.job(job_id).state == "cancelled", looking=one)
    assert child.process.returncode is not None
    assert not psutil.pid_exists(child.process.pid)


def sleeper(**environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, **environment})


@ON_SQLITE
def test_what_a_dead_worker_left_is_killed_by_its_mark_alone(service: Service, rows: Path, make: Callable[..., Worker]) -> None:
    job_id = queued(service, rows)
    left, other = sleeper(**{MARK: f"worker_dead:{job_id}:1"}), sleeper(**{MARK: f"worker_alive:{job_id}:1"})
    try:
        with service.database.write() as session:
            facts = {"host": os.uname().nodename, "seen_at": time.time(), "slots": {}}
            session.add(WorkerRow(id="worker_dead", pid=os.getpid(), created_at=time.time() - 1e6, **facts))  # our number, long before us
            session.add(WorkerRow(id="worker_alive", pid=os.getpid(), **facts))
        assert queue.claim(service.database, worker_id="worker_dead", device="cpu") is not None
        make()
        assert not psutil.pid_exists(left.pid)
        assert other.poll() is None
        assert (service.job(job_id).state, service.job(job_id).worker_id) == ("queued", None)
        with service.database.read() as session:
            assert "worker_dead" not in set(session.scalars(select(WorkerRow.id)))
            assert "worker_alive" in set(session.scalars(select(WorkerRow.id)))
    finally:
        left.kill(), other.kill()
        left.wait(), other.wait()


def pretend(answer: str) -> Callable[..., Child]:
    """A child that starts another process, and does `answer` when it is asked to stop."""

    def start(claim: Claim, *, log: Path, **_: Any) -> Child:
        program = (
            "import signal, subprocess, sys, time\n"
            f"signal.signal(signal.SIGTERM, lambda *_: {answer})\n"
            "one = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
            "print(one.pid, flush=True)\n"
            "time.sleep(60)\n"
        )
        log.parent.mkdir(exist_ok=True)
        with open(log, "wb") as words:
            child = Child(claim, subprocess.Popen([sys.executable, "-c", program], stdout=words, start_new_session=True))
        until(lambda: log.read_text())
        return child

    return start


@ON_SQLITE
def test_a_child_that_does_not_stop_is_killed_with_all_it_has_started(
    service: Service, rows: Path, home: Path, make: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Child, "start", pretend("None"))
    one, job_id = make(cancel_patience=0.5), queued(service, rows)
    one.look()
    (child,) = one.children
    started = psutil.Process(int((home / "logs" / f"{job_id}.log").read_text()))
    control.cancel(service.database, job_id, service.who)
    one.look()
    assert service.job(job_id).state == "running"
    until(lambda: service.job(job_id).state == "cancelled", looking=one)
    assert child.process.returncode == -signal.SIGKILL
    until(lambda: not started.is_running() or started.status() == psutil.STATUS_ZOMBIE)


@ON_SQLITE
def test_a_child_that_is_killed_waits_again_and_one_that_crashes_says_why(
    service: Service, rows: Path, home: Path, make: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Child, "start", pretend("None"))
    one, job_id = make(), queued(service, rows)
    one.look()
    killed = one.children[0]
    killed.kill()
    until(lambda: killed not in one.children, looking=one)
    assert any("killed by SIGKILL" in event.message for event in service.events(job_id))
    assert service.job(job_id).attempts == queue.KILLED.share
    one.children[0].kill()

    def crashing(claim: Claim, *, log: Path, **_: Any) -> Child:
        log.write_text(f"Traceback\nOSError: {home}/x is full\n")
        return Child(claim, subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(1)"], start_new_session=True))

    monkeypatch.setattr(Child, "start", crashing)
    monkeypatch.setattr(queue, "LONGEST_PAUSE", 0.01)
    until(lambda: service.job(job_id).state == "failed", looking=one)
    error = service.job(job_id).error
    assert error["code"] == "process_lost"
    assert "it ended with 1: OSError: LUTHIER_HOME/x is full" in error["message"]


@ON_SQLITE
def test_a_worker_that_leaves_lets_its_children_stop_and_their_jobs_wait(
    service: Service, rows: Path, make: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Child, "start", pretend("sys.exit(130)"))
    one, job_id = make(registered=False), queued(service, rows)
    thread = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    thread.start()
    one.run()
    thread.join()
    job = service.job(job_id)
    assert (job.state, job.attempts, one.children) == ("queued", 0, [])
    assert service.events(job_id)[-1].message == "The job waits: its worker stops."
    with service.database.read() as session:
        assert list(session.scalars(select(WorkerRow))) == []


@ON_SQLITE
def test_one_worker_a_machine(service: Service, make: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    with worker._lock_file() as file:
        assert worker._locked(file)
        late = make(registered=False)
        monkeypatch.setattr(late, "say", lambda line: pytest.fail(f"it says {line!r}"))
        with pytest.raises(StorageError, match="A worker runs here already") as refused:
            late.run()
    assert refused.value.code == "worker_runs"


@ON_SQLITE
def test_a_database_in_trouble_is_waited_for(service: Service, make: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    one, heard = make(registered=False), list[str]()
    one.say = heard.append

    def trouble() -> None:
        one.asked.set()
        raise StorageError("It is away.", code="database_unreachable")

    monkeypatch.setattr(one, "look", trouble)
    one.run()
    assert heard[1:] == ["database_unreachable: It is away."] and heard[0].startswith(f"{one.id} takes jobs")


def test_a_number_that_was_taken_by_a_later_process_is_another_process() -> None:
    mine = psutil.Process()
    assert processes.is_running(mine.pid, mine.create_time() + 1)
    assert not processes.is_running(mine.pid, mine.create_time() - 60)
    assert not processes.is_running(2**22 + 1, time.time())
