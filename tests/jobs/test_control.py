"""Cancel, pause, resume: at once where nobody works, else noted for the worker."""

from pathlib import Path

import pytest
from sqlalchemy import select

from luthier.core.errors import NotFound, SpecError
from luthier.jobs import control, queue, states
from luthier.store.audit import Deputy
from luthier.store.tables.operation import Audit

from .conftest import Service


@pytest.fixture
def queued(service: Service, rows: Path) -> str:
    job_id: str = service.submit(service.upload(rows)).id
    with service.database.write() as session:
        states.move(session, queue.locked(session, job_id), "queued", "pass")
    return job_id


def hold(service: Service) -> queue.Claim:
    found = queue.claim(service.database, worker_id="worker_a", device="cpu")
    assert found is not None
    return found


def deeds(service: Service, job_id: str) -> list[str]:
    with service.database.read() as session:
        return list(session.scalars(select(Audit.action).where(Audit.subject == job_id).order_by(Audit.n)))


def test_what_nobody_works_on_changes_at_once(service: Service, queued: str) -> None:
    assert control.pause(service.database, queued, service.who).state == "paused"
    assert queue.claim(service.database, worker_id="worker_a", device="cpu") is None, "a paused job takes no slot"
    assert control.resume(service.database, queued, service.who).state == "queued"
    assert control.cancel(service.database, queued, service.who).state == "cancelled"
    assert service.job(queued).finished_at is not None
    assert deeds(service, queued) == ["job.create", "job.pause", "job.resume", "job.cancel"]


@pytest.mark.parametrize(("ask", "end"), [("cancel", "cancelled"), ("pause", "paused")])
def test_what_is_worked_on_changes_when_its_child_is_gone(service: Service, queued: str, ask: str, end: str) -> None:
    mine = hold(service)
    asked = getattr(control, ask)(service.database, queued, service.who)
    assert (asked.state, asked.wanted) == ("running", ask)
    assert getattr(control, ask)(service.database, queued, service.who).wanted == ask, "asking twice changes nothing"
    assert queue.wanted(service.database, [mine]) == {mine: ask}
    queue.release(service.database, mine)
    job = service.job(queued)
    assert (job.state, job.wanted, job.worker_id) == (end, None, None)
    assert deeds(service, queued) == ["job.create", f"job.{ask}"]


def test_a_pause_is_taken_back_before_it_happens_and_a_cancel_overrules_it(service: Service, queued: str) -> None:
    mine = hold(service)
    control.pause(service.database, queued, service.who)
    assert control.resume(service.database, queued, service.who).wanted is None
    control.pause(service.database, queued, service.who)
    assert control.cancel(service.database, queued, service.who).wanted == "cancel"
    with pytest.raises(SpecError, match="is being cancelled and cannot be paused"):
        control.pause(service.database, queued, service.who)
    with pytest.raises(SpecError):
        control.resume(service.database, queued, service.who)
    queue.release(service.database, mine, crash="killed by SIGKILL", how=queue.KILLED)
    assert service.job(queued).state == "cancelled"


def test_a_job_whose_files_are_checked_is_cancelled_and_not_paused(service: Service, rows: Path) -> None:
    job_id = service.submit(service.upload(rows)).id
    with pytest.raises(SpecError, match=r"is validating_files and cannot be paused\. It can be cancelled"):
        control.pause(service.database, job_id, service.who)
    assert control.cancel(service.database, job_id, service.who).state == "cancelled"


def test_what_is_over_stays_and_says_so(service: Service, queued: str) -> None:
    control.cancel(service.database, queued, service.who)
    for ask in (control.cancel, control.pause, control.resume):
        with pytest.raises(SpecError, match=r"is cancelled and cannot be .* It is over; make a new one") as refused:
            ask(service.database, queued, service.who)
        assert refused.value.code == "job_state"
    assert deeds(service, queued) == ["job.create", "job.cancel"], "what is refused is no deed"


def test_another_project_s_job_is_not_there(service: Service, queued: str) -> None:
    stranger = Deputy("key_x", service.who.organisation_id, "proj_other")
    for ask in (control.cancel, control.pause, control.resume):
        with pytest.raises(NotFound, match=f"There is no job {queued}"):
            ask(service.database, queued, stranger)
    assert service.job(queued).state == "queued"
