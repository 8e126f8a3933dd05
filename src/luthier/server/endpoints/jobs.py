"""``/v1/fine_tuning/jobs``: make, list, look at, cancel, pause, resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response
from sqlalchemy import select

from luthier.jobs import control, queue
from luthier.jobs.asked import NewJob
from luthier.jobs.submit import submit
from luthier.security.quotas import room_for_job
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.service import Ours
from luthier.server.shown.jobs import alone, shown
from luthier.server.stored import with_metadata
from luthier.server.wire import jobs as wire
from luthier.server.wire._base import ignored_by, reply
from luthier.server.wire._query import After, Limit
from luthier.server.wire.error import errors
from luthier.store.pages import page
from luthier.store.tables.jobs import Job
from luthier.store.tables.models import TunedModel

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Fine-tuning"], route_class=Route)

Retries = Annotated[int, Header(alias="x-stainless-retry-count", ge=0, le=1000)]
IdempotencyKey = Annotated[str, Header(alias="idempotency-key", max_length=256)]


@router.post("", response_model=wire.Job, responses=errors(404))
def create(
    body: wire.CreateJob,
    caller: Annotated[Caller, allowed("job.create")],
    ours: Ours,
    retries: Retries = 0,
    idempotency_key: IdempotencyKey = "",
) -> Response:
    """Make a job. The same request sent again as a retry within a minute, or with the same Idempotency-Key, makes one job."""
    new = _asked(body, retry=retries, idempotency_key=idempotency_key)
    with ours.database.read() as session:
        room_for_job(session, caller.project_id, most=caller.actor.limits.jobs)
    job = submit(ours.database, new, caller.actor, request_id=caller.request_id)
    return _shown(ours, caller, job)


@router.post("/forecast", response_model=wire.Forecast, responses=errors(404))
def forecasted(body: wire.CreateJob, caller: Annotated[Caller, allowed("job.forecast")], ours: Ours) -> Response:
    """What a job would take of time, memory, disk and money. Its files are read for that. Beyond the wire; nothing is made."""
    from luthier.jobs.forecast import forecast  # weighs with torch

    price, currency = ours.settings.price_per_hour, ours.settings.currency
    found = forecast(ours.database, ours.blobs, _asked(body), caller.actor, price_per_hour=price, currency=currency)
    return reply(wire.Forecast(**found.to_json(), luthier=ignored_by(body)))


def _asked(body: wire.CreateJob, **beside: Any) -> NewJob:
    said = body.model_dump(mode="json", exclude_unset=True)
    return NewJob.read(said, ignored=body.ignored(), **beside)


@router.get("", response_model=wire.Jobs)
def many(request: Request, caller: Annotated[Caller, allowed("job.read")], ours: Ours, after: After = "", limit: Limit = 20) -> Response:
    """The jobs of the project, newest first. ``metadata[k]=v`` keeps those with this pair, ``metadata=null`` those without any."""
    where = [Job.project_id == caller.project_id, *with_metadata(request.query_params, Job.facts)]
    with ours.database.read() as session:
        found = page(session, Job, *where, after=after, limit=limit)
    return reply(wire.Jobs(data=[shown(job, caller.actor.organisation_id) for job in found.rows], has_more=found.has_more))


@router.get("/{job_id}", response_model=wire.Job, responses=errors(404))
def one(job_id: str, caller: Annotated[Caller, allowed("job.read")], ours: Ours) -> Response:
    """One job, with all that is known of it."""
    with ours.database.read() as session:
        job = control.find(session, job_id, caller.project_id)
    return _shown(ours, caller, job)


@router.post("/{job_id}/cancel", response_model=wire.Job, responses=errors(404))
def cancel(job_id: str, caller: Annotated[Caller, allowed("job.cancel")], ours: Ours) -> Response:
    """End a job. It says ``cancelled`` once nothing works on it any more."""
    return _changed(control.cancel, job_id, caller, ours)


@router.post("/{job_id}/pause", response_model=wire.Job, responses=errors(404))
def pause(job_id: str, caller: Annotated[Caller, allowed("job.pause")], ours: Ours) -> Response:
    """Stop a job at its next step, with a checkpoint, and free its place."""
    return _changed(control.pause, job_id, caller, ours)


@router.post("/{job_id}/resume", response_model=wire.Job, responses=errors(404))
def resume(job_id: str, caller: Annotated[Caller, allowed("job.resume")], ours: Ours) -> Response:
    """Let a paused job go on, at its old place in the queue."""
    return _changed(control.resume, job_id, caller, ours)


def _changed(change: Callable[..., Job], job_id: str, caller: Caller, ours: Ours) -> Response:
    return _shown(ours, caller, change(ours.database, job_id, caller.actor))


def _shown(ours: Ours, caller: Caller, job: Job) -> Response:
    with ours.database.read() as session:
        place = queue.position(session, job)
        model = session.scalar(select(TunedModel).where(TunedModel.id == job.fine_tuned_model)) if job.fine_tuned_model else None
    return reply(shown(job, caller.actor.organisation_id, alone(job, place, model)))
