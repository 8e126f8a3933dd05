"""The longest time an answer may take to begin. A stream that has begun may go on."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from luthier.server.errors import WireError
from luthier.server.gates._send import refuse


class Patience:
    """Ends what takes too long with a 503 that may be tried again.

    Args:
        seconds: from the first byte of the request to the first of the answer; uploading a large file counts only while nothing comes
            (`Sizes` watches that), so a request with a body of unknown or large size starts the clock when it was read.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False
        try:
            async with asyncio.timeout(self.seconds) as clock:

                async def watched(message: Message) -> None:
                    nonlocal begun
                    begun = True
                    clock.reschedule(None)
                    await send(message)

                async def reading() -> Message:
                    message = await receive()
                    if not begun and message.get("body"):
                        clock.reschedule(asyncio.get_running_loop().time() + self.seconds)
                    return message

                await self.app(scope, reading, watched)
        except TimeoutError:
            if begun or not clock.expired():
                raise
            message = f"There was no answer within {self.seconds:g} seconds. The machine may be busy."
            await refuse(WireError(503, message, code="timeout", headers={"retry-after": "5"}), scope, receive, send, close=True)
