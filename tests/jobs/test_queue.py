"""Claims, leases and tokens, on both databases: each job has one holder, and who lost it writes nothing."""

import threading
import time
from typing import Any

import pytest

from luthier.core.errors import SpecError
from luthier.jobs import queue, states
from luthier.jobs.queue import CHECKING, Claim, Taken, claim, fenced, heartbeat, position, recover, release, wanted
from luthier.store.tables.jobs import Worker

from .conftest import Service


def waiting(service: Service, rows: Any, count: int = 1) -> list[str]:
    """Jobs whose files have passed."""
    file = service.upload(rows)
    ids = [service.submit(file).id for _ in range(count)]
    for job_id in ids:
        with service.database.write() as session:
            states.move(session, queue.locked(session, job_id), "queued", "pass")
    return ids


def take(service: Service, device: str = "cpu", worker: str = "worker_a", lease: float = 30.0) -> Claim:
    found = claim(service.database, worker_id=worker, device=device, lease=lease)
    assert found is not None
    return found


def test_files_are_checked_beside_and_the_oldest_waits_least(service: Service, rows: Any) -> None:
    file = service.upload(rows)
    first, second = service.submit(file), service.submit(file)
    assert claim(service.database, worker_id="worker_a", device="cpu") is None, "files first"
    checking = [take(service, CHECKING).job_id, take(service, CHECKING).job_id]
    assert checking == [first.id, second.id]
    assert claim(service.database, worker_id="worker_a", device=CHECKING) is None
    with service.database.write() as session:
        states.move(session, queue.locked(session, second.id), "queued", "pass")
        states.move(session, queue.locked(session, first.id), "queued", "pass")
        assert (position(session, service.job(first.id)), position(session, service.job(second.id))) == (1, 2)
    assert [take(service).job_id, take(service).job_id] == [first.id, second.id]
    held = service.job(first.id)
    assert (held.state, held.worker_id, held.device, held.run) == ("running", "worker_a", "cpu", first.id)
    with service.database.read() as session:
        assert position(session, held) is None


def test_a_job_whose_worker_is_lost_is_taken_over_and_the_old_holder_writes_nothing(service: Service, rows: Any) -> None:
    lost, waits = waiting(service, rows, 2)
    old = take(service, lease=-1.0)
    new = take(service, worker="worker_b")
    assert (new.job_id, new.token > old.token) == (lost, True), "before the one that waits"
    assert take(service).job_id == waits
    with pytest.raises(Taken, match="Another worker holds this job"), fenced(service.database, old) as (_, job):
        job.verdict = {"by": "old"}
    release(service.database, old)
    heartbeat(service.database, [old], worker_id="worker_a", lease=1e6)
    now = service.job(lost)
    assert (now.state, now.worker_id, now.verdict, now.lease_until < time.time() + 100) == ("running", "worker_b", None, True)
    assert wanted(service.database, [old]) == {}
    assert wanted(service.database, [new]) == {new: None}
    assert "worker was lost" in service.events(lost)[-1].message


def test_a_renewed_lease_is_not_taken(service: Service, rows: Any) -> None:
    waiting(service, rows)
    mine = take(service, lease=-1.0)
    heartbeat(service.database, [mine], worker_id="worker_a")
    assert claim(service.database, worker_id="worker_b", device="cpu") is None


def test_a_released_job_waits_at_its_old_place(service: Service, rows: Any) -> None:
    first, second = waiting(service, rows, 2)
    release(service.database, take(service))
    job = service.job(first)
    assert (job.state, job.worker_id, job.device, job.lease_until, job.attempts) == ("queued", None, None, None, 0)
    assert take(service).job_id == first
    assert service.job(second).state == "queued"


def crash(service: Service, job_id: str, **how: Any) -> float:
    """A child ends by itself; returns the seconds its job then waits, which pass."""
    mine = take(service)
    assert mine.job_id == job_id
    release(service.database, mine, crash="it ended with 1: no room", **how)
    until = service.job(job_id).lease_until or time.time()
    with service.database.write() as session:
        queue.locked(session, job_id).lease_until = None
    return float(until - time.time())


def test_a_child_that_always_crashes_ends_its_job_but_one_that_gets_on_does_not(service: Service, rows: Any) -> None:
    (job_id,) = waiting(service, rows)
    for _ in range(queue.CRASHED.most - 1):
        crash(service, job_id)
    assert service.job(job_id).state == "queued"
    with service.database.write() as session:
        queue.locked(session, job_id).attempts = 0  # as the relay does with every step
    for _ in range(queue.CRASHED.most):
        crash(service, job_id)
    job = service.job(job_id)
    assert (job.state, job.error["code"], job.worker_id) == ("failed", "process_lost", None)
    assert "it ended with 1: no room" in job.error["message"]


def test_losses_of_several_kinds_add_up_by_their_shares(service: Service, rows: Any) -> None:
    """A crash after some kills from outside is still the first crash."""
    (job_id,) = waiting(service, rows)
    for _ in range(queue.CRASHED.most):
        crash(service, job_id, how=queue.KILLED)
    crash(service, job_id)
    crash(service, job_id)
    assert service.job(job_id).state == "queued"
    crash(service, job_id, how=queue.TROUBLED)
    assert service.job(job_id).state == "failed"


def test_after_a_crash_a_job_waits_longer_each_time_and_lets_others_go_before_it(service: Service, rows: Any) -> None:
    first, second = waiting(service, rows, 2)
    waits = [crash(service, first, how=queue.TROUBLED) for _ in range(3)]
    assert waits == [pytest.approx(wait, abs=2) for wait in (5, 10, 20)]
    release(service.database, take(service), crash="it ended with 3: disk full", how=queue.TROUBLED)
    assert (service.job(first).state, service.job(first).attempts) == ("queued", 4 * queue.TROUBLED.share)
    assert take(service).job_id == second
    assert claim(service.database, worker_id="worker_a", device="cpu") is None, "it waits"
    assert crash_pause_of_a_kill(service, second) == 0, "who was killed goes on at once"


def crash_pause_of_a_kill(service: Service, job_id: str) -> float:
    job = service.job(job_id)
    release(service.database, Claim(job_id, job.token, "cpu"), crash="killed by SIGKILL", how=queue.KILLED)
    return service.job(job_id).lease_until or 0.0


def test_what_a_dead_worker_held_is_given_back(service: Service, rows: Any) -> None:
    first, second, third = waiting(service, rows, 3)
    checked = service.submit(service.job(first).training_file).id
    held = [take(service), take(service), take(service), take(service, CHECKING)]
    assert [one.job_id for one in held] == [first, second, third, checked]
    with service.database.write() as session:
        queue.locked(session, second).wanted = "cancel"
        queue.locked(session, third).wanted = "pause"
    assert recover(service.database, "worker_a") == 4
    assert [service.job(one).state for one in (first, second, third, checked)] == ["queued", "cancelled", "paused", "validating_files"]
    assert not [one for one in (first, second, third, checked) if service.job(one).worker_id]
    assert take(service, CHECKING).job_id == checked


def test_what_was_wanted_of_a_job_whose_worker_is_lost_happens_at_the_next_claim(service: Service, rows: Any) -> None:
    first, second, third = waiting(service, rows, 3)
    for job_id, want in ((first, "cancel"), (second, "pause")):
        assert take(service, worker="worker_a").job_id == job_id
        with service.database.write() as session:
            job = queue.locked(session, job_id)
            job.wanted, job.lease_until = want, 0.0
    assert take(service, worker="worker_b").job_id == third
    assert (service.job(first).state, service.job(second).state) == ("cancelled", "paused")


def test_many_workers_at_once_share_the_jobs_out(service: Service, rows: Any) -> None:
    ids = waiting(service, rows, 12)
    found: list[Claim] = []

    def work(name: str) -> None:
        while (one := claim(service.database, worker_id=name, device="cpu")) is not None:
            found.append(one)

    threads = [threading.Thread(target=work, args=(f"worker_{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.job_id for one in found) == sorted(ids), "each once"


def test_only_the_moves_of_the_table_are_made(service: Service, job: Any) -> None:
    for state, after in states.MOVES.items():
        for to in set(states.MOVES) - after:
            with service.database.write() as session:
                row = queue.locked(session, job.id)
                row.state = state
                with pytest.raises(SpecError, match=f"is {state} and cannot be ") as refused:
                    states.move(session, row, to, "never")
                assert refused.value.code == "job_state"
                session.rollback()
    assert {"succeeded", "failed", "cancelled"} == states.OVER
    assert service.job(job.id).state == "validating_files"


def test_a_heartbeat_says_that_the_worker_is_alive(service: Service) -> None:
    with service.database.write() as session:
        session.add(Worker(id="worker_a", host="here", pid=1, seen_at=1.0, slots={}))
    heartbeat(service.database, [], worker_id="worker_a")
    with service.database.read() as session:
        assert session.get(Worker, 1).seen_at > time.time() - 10
