"""How much may be sent, decided before anything is read, and counted while it is: a Content-Length may lie, a chunked body has none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.server.errors import WireError
from luthier.server.gates._send import refuse

FORM = 1 << 16
"""Bytes a form may have beside its file: boundaries, headers, a few short fields."""

CLOSE = {"connection": "close"}
"""What the client still sends is not read."""

Limit = Callable[[str, str], int]
"""Method and path -> bytes."""


class Sizes:
    """Refuses bodies that are too large, sent too slowly, or framed in two ways at once.

    Args:
        limit: the largest body of a request. idle_seconds: longest wait for its next bytes.
    """

    def __init__(self, app: ASGIApp, limit: Limit, idle_seconds: float) -> None:
        self.app, self.limit, self.idle_seconds = app, limit, idle_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit(scope["method"], scope["path"])
        error = _framing(Headers(scope=scope), limit)
        if error:
            await refuse(error, scope, receive, send, close=True)
            return
        await self.app(scope, _Body(receive, limit, self.idle_seconds).receive, send)


class _Body:
    """A `receive` that counts and watches the clock until the body is complete; afterwards it only waits for the client to leave.

    What it raises comes out where the body is read, and is answered like any error of an endpoint.
    """

    def __init__(self, receive: Receive, limit: int, idle_seconds: float) -> None:
        self._receive, self._left, self._idle = receive, limit, idle_seconds
        self._limit, self._complete = limit, False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout(self._idle):
                message = await self._receive()
        except TimeoutError:
            raise WireError(408, f"Nothing came for {self._idle:g} seconds.", code="timeout", headers=CLOSE) from None
        self._left -= len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._left < 0:
            raise _too_large(self._limit)
        return message


def _framing(headers: Headers, limit: int) -> WireError | None:
    """What the headers alone give away. Two ways to tell the length are how requests are smuggled past a proxy."""
    lengths = headers.getlist("content-length")
    if ("transfer-encoding" in headers and lengths) or len(set(lengths)) > 1:
        return WireError(400, "The request says its length in two ways.", code="ambiguous_length")
    if lengths and not (lengths[0].isascii() and lengths[0].isdigit()):
        return WireError(400, "Content-Length is not a number.", code="ambiguous_length")
    if lengths and int(lengths[0]) > limit:
        return _too_large(limit)
    return None


def _too_large(limit: int) -> WireError:
    return WireError(413, f"The request is larger than the {limit:,} bytes allowed here.", code="request_too_large", headers=CLOSE)
