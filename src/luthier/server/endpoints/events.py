"""``/v1/fine_tuning/jobs/ID/events`` and ``/checkpoints``: what a job tells; the events also as they happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Header, Query
from fastapi.responses import Response, StreamingResponse
from sqlalchemy import select

from luthier.jobs import control
from luthier.jobs.states import OVER
from luthier.server import sse
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.service import Ours
from luthier.server.shown.jobs import shown_checkpoint, shown_event
from luthier.server.wire import jobs as wire
from luthier.server.wire._base import Listed, listed, reply
from luthier.server.wire._query import After, Limit
from luthier.server.wire.error import errors
from luthier.store.pages import page
from luthier.store.tables.jobs import Checkpoint, Job, JobEvent

router = APIRouter(prefix="/v1/fine_tuning/jobs/{job_id}", tags=["Fine-tuning"], route_class=Route)

LOOK = 0.5
"""Seconds between two looks at a job whose events are followed."""
AT_ONCE = 100
"""Events read at one look."""

STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}}}}

Follow = Annotated[bool, Query(description="Send events as they happen, from the first (or the one after `after`), until the job is over.")]


@router.get(
    "/events",
    response_model=wire.JobEvents,
    responses=STREAM | errors(404),
)
async def events(
    job_id: str,
    caller: Annotated[Caller, allowed("job.read")],
    ours: Ours,
    after: After = "",
    limit: Limit = 20,
    stream: Follow = False,
    last_event_id: Annotated[str, Header(max_length=256)] = "",
) -> Response:
    """What happened to a job, newest first; or, with ``stream=true``, as server-sent events, oldest first."""
    found = await to_thread.run_sync(_page, ours, caller, job_id, last_event_id if stream and last_event_id else after, limit, stream)
    if stream:
        return StreamingResponse(_following(ours, caller, job_id, last_event_id or after), media_type=sse.MEDIA_TYPE, headers=sse.HEADERS)
    return reply(found)


def _page(ours: Ours, caller: Caller, job_id: str, after: str, limit: int, oldest_first: bool) -> wire.JobEvents:
    with ours.database.read() as session:
        job = control.find(session, job_id, caller.project_id)
        found = page(session, JobEvent, JobEvent.job_id == job.id, after=after, limit=limit, order="asc" if oldest_first else "desc")
    return wire.JobEvents(data=[shown_event(event) for event in found.rows], has_more=found.has_more)


async def _following(ours: Ours, caller: Caller, job_id: str, after: str) -> AsyncIterator[bytes]:
    """Frames until the job is over and all is told, or the service stops. Each event's id is where a client goes on that lost the line."""
    said = time.monotonic()
    while not ours.stopping.is_set():
        over = await to_thread.run_sync(_is_over, ours, job_id)  # asked before the events: none can come after an empty page
        found = await to_thread.run_sync(_page, ours, caller, job_id, after, AT_ONCE, True)
        for event in found.data:
            yield sse.frame(event.model_dump_json(), id=event.id)
            after, said = event.id, time.monotonic()
        if over and not found.data:
            yield sse.DONE
            return
        if not found.has_more:
            await asyncio.sleep(LOOK)
        if time.monotonic() - said > sse.QUIET:
            yield sse.ALIVE
            said = time.monotonic()


def _is_over(ours: Ours, job_id: str) -> bool:
    with ours.database.read() as session:
        state = session.scalar(select(Job.state).where(Job.id == job_id))
    return state is None or state in OVER


@router.get("/checkpoints", response_model=Listed[wire.JobCheckpoint], responses=errors(404))
def checkpoints(job_id: str, caller: Annotated[Caller, allowed("job.read")], ours: Ours, after: After = "", limit: Limit = 10) -> Response:
    """The checkpoints that can be asked as models, newest first."""
    with ours.database.read() as session:
        job = control.find(session, job_id, caller.project_id)
        found = page(session, Checkpoint, Checkpoint.job_id == job.id, after=after, limit=limit)
    return reply(listed([shown_checkpoint(one) for one in found.rows], found.has_more))
