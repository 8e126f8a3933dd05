"""The application: endpoints from their folder, gates around them, errors in the wire's shape, one document that says it all.

request -> Trace -> Hosts -> Sizes -> Patience -> Keys -> endpoint
           id, log   meant    how      how         who
                     for us?  much?    long?       asks?
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from luthier import __version__
from luthier.core.errors import LuthierError
from luthier.server import errors
from luthier.server.endpoints import ENDPOINTS
from luthier.server.gates.hosts import Hosts
from luthier.server.gates.keys import Keys
from luthier.server.gates.patience import Patience
from luthier.server.gates.sizes import FORM, Sizes
from luthier.server.gates.trace import Trace
from luthier.server.service import Service
from luthier.server.settings import Settings
from luthier.server.wire.error import EVERYWHERE
from luthier.server.wire.error import errors as documented
from luthier.store.uploads import MOST_PART_BYTES

ABOUT = "Files, tuning jobs, models and answers as the `openai` client knows them; fields beyond the wire are in `luthier` objects."


def make(service: Service) -> FastAPI:
    """The application of `service`, whose lifespan sweeps and examines beside the requests and closes the service at its end."""
    app = FastAPI(
        title="Luthier",
        version=__version__,
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        responses=documented(*EVERYWHERE),
    )
    app.state.service = service
    for name in ENDPOINTS.names():
        app.include_router(ENDPOINTS.load(name).router)
    for kind, handler in (
        (errors.WireError, errors.on_wire_error),
        (LuthierError, errors.on_luthier_error),
        (RequestValidationError, errors.on_validation_error),
        (HTTPException, errors.on_http_exception),
    ):
        app.add_exception_handler(kind, handler)
    _gate(app, service)
    return app


def _gate(app: FastAPI, service: Service) -> None:
    """Innermost first: what is added later is passed earlier."""
    settings = service.settings
    app.add_middleware(Keys, service=service)
    app.add_middleware(Patience, seconds=settings.answer_seconds)
    app.add_middleware(Sizes, limit=_limit(settings), idle_seconds=settings.idle_seconds)
    app.add_middleware(Hosts, hosts=settings.hosts(), origins=frozenset(settings.allowed_origins))
    app.add_middleware(Trace)


def _limit(settings: Settings) -> Any:
    """The largest body: forms with files have their own."""

    def limit(method: str, path: str) -> int:
        if method == "POST" and path == "/v1/files":
            return settings.file_bytes + FORM
        if method == "POST" and path.startswith("/v1/uploads/") and path.endswith("/parts"):
            return MOST_PART_BYTES + FORM
        return settings.body_bytes

    return limit


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    stop = threading.Event()
    tending = threading.Thread(target=service.tend, args=(stop,), name="tend", daemon=True)
    tending.start()
    service.batches.start()
    try:
        yield
    finally:
        stop.set()
        await to_thread.run_sync(service.close)
        tending.join(5)
