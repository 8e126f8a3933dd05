"""Outermost: every request gets an id, a line in the log, its numbers - and an answer, even if we have a bug.

Never told: bodies, prompts, answers, keys, query strings.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.server import metrics
from luthier.server.errors import WireError, printable
from luthier.server.gates._send import adding, refuse
from luthier.store import ids

log = logging.getLogger("luthier.server")

_FOREIGN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class _Answer:
    """What is known of the answer: 0 until it began."""

    status: int = 0


class Trace:
    """Names each request, and catches what nobody else did."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, answer = time.perf_counter(), _Answer()
        request_id = scope.setdefault("state", {})["request_id"] = ids.new("req_")
        headers = {"x-request-id": request_id, "openai-version": "2020-10-01", "x-content-type-options": "nosniff"}

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                headers["openai-processing-ms"] = str(round((time.perf_counter() - begun) * 1000))
            await adding(send, headers)(message)

        try:
            with metrics.in_flight():
                await self.app(scope, receive, watched)
        except ClientDisconnect:
            answer.status = answer.status or 499
        except Exception:
            log.exception("bug", extra={"request_id": request_id})
            if not answer.status:
                bug = WireError(500, f"This is a bug in Luthier. The log has it under {request_id}.", code="bug")
                await refuse(bug, scope, receive, watched)
        finally:
            self._tell(scope, answer, request_id, time.perf_counter() - begun)

    def _tell(self, scope: Scope, answer: _Answer, request_id: str, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", None) or "none"
        metrics.request(scope["method"], route, answer.status, seconds)
        facts = {
            "request_id": request_id,
            "method": scope["method"],
            "path": printable(scope["path"], 200),
            "status": answer.status,
            "milliseconds": round(seconds * 1000, 1),
            "key": scope["state"].get("key_id", ""),
        }
        theirs = dict(scope["headers"]).get(b"x-client-request-id", b"").decode("latin-1")
        if _FOREIGN_ID.fullmatch(theirs):
            facts["client_request_id"] = theirs
        log.info("request", extra=facts)
