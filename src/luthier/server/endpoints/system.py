"""Is it alive, is it ready, how is it doing, what can it do."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from sqlalchemy import text

from luthier import __version__
from luthier.server import document, metrics
from luthier.server.caller import Caller, allowed
from luthier.server.live import numbers
from luthier.server.service import Ours, Service
from luthier.server.wire._base import Answer, reply
from luthier.server.wire.error import errors

router = APIRouter(tags=["System"])


class Health(Answer):
    """The process answers."""

    status: str = "ok"
    version: str = __version__


class Readiness(Answer):
    """What the service needs, and whether it is there. models: their libraries are loaded; false for some seconds after the start."""

    ready: bool
    database: bool
    models: bool


@router.get("/healthz", response_model=Health, responses=errors(421))
async def health() -> Response:
    """The process answers."""
    return reply(Health())


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not yet, or not now."}})
async def readiness(ours: Ours) -> Response:
    """The database can be reached, and models can be asked."""
    database = await to_thread.run_sync(_reachable, ours)
    ready = database and ours.is_warm
    return reply(Readiness(ready=ready, database=database, models=ours.is_warm), 200 if ready else 503)


def _reachable(ours: Service) -> bool:
    try:
        with ours.database.read() as session:
            session.execute(text("SELECT 1"))
    except Exception:
        return False
    return True


TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get("/metrics", response_class=Response, responses=TEXT)
def prometheus(caller: Annotated[Caller, allowed("metrics.read")], ours: Ours) -> Response:
    """Numbers for Prometheus; its ``authorization`` setting takes a key."""
    return Response(metrics.page(lambda: numbers(ours)), media_type=metrics.MEDIA_TYPE)


@router.get("/openapi.json", response_model=dict[str, Any])
def openapi(request: Request) -> Response:
    """This document."""
    return JSONResponse(document.of(request.app))
