"""How a gate answers by itself, and how it adds to what others answer."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from luthier.server.errors import WireError


async def refuse(error: WireError, scope: Scope, receive: Receive, send: Send, *, close: bool = False) -> None:
    """Answer with an error. With `close`, what the client still sends is not read: the connection ends."""
    if close:
        error.headers = {**(error.headers or {}), "connection": "close"}
    await error.response()(scope, receive, send)


def adding(send: Send, headers: dict[str, str]) -> Send:
    """A `send` that puts `headers` on the answer; read when the answer begins, so they may be filled until then."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            found = MutableHeaders(scope=message)
            for name, value in headers.items():
                found.setdefault(name, value)
        await send(message)

    return wrapped
