"""Deltas from the engine's thread, heard on the event loop; a client that leaves cancels what it asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from luthier.inference.serving.ask import Answering, Delta

T = TypeVar("T")

Deltas = AsyncGenerator[tuple[int, Delta], None]
"""What is new, and in the answer to which question."""


async def heard(answerings: Sequence[Answering]) -> Deltas:
    """The deltas of several answers as they come, each with the number of its question. Leaving early cancels all.

    Raises:
        LuthierError: one failed; the others are cancelled.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[int, Delta | BaseException | None]] = asyncio.Queue()

    def listener(number: int) -> Callable[[Delta | BaseException | None], None]:
        return lambda item: _put(loop, queue, (number, item))

    for number, answering in enumerate(answerings):
        answering.listen(listener(number))
    open_ = len(answerings)
    try:
        while open_:
            number, item = await queue.get()
            if item is None:
                open_ -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield number, item
    finally:
        for answering in answerings:
            if not answering.over:
                answering.cancel()


def _put(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[T], item: T) -> None:
    """From the engine's thread. The loop may be gone when the service stops; then nobody listens any more."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(queue.put_nowait, item)


async def whole(answerings: Sequence[Answering]) -> list[list[Delta]]:
    """Everything, one delta for each answer of each question, in order."""
    found: list[dict[int, Delta]] = [{} for _ in answerings]
    async with aclosing(heard(answerings)) as deltas:
        async for number, delta in deltas:
            mine = found[number].setdefault(delta.index, Delta(delta.index))
            mine.text += delta.text
            mine.tokens += delta.tokens
            mine.tool_calls += delta.tool_calls
            mine.finish = delta.finish or mine.finish
    return [[of[index] for index in sorted(of)] for of in found]


async def while_there(request: Request, work: Awaitable[T]) -> T:
    """`work`, given up when the client leaves.

    Raises:
        ClientGone: it left.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for one in (task, watch):
            if not one.done():
                one.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


class ClientGone(ClientDisconnect):
    """Nobody waits for the answer any more."""


async def _left(request: Request) -> None:
    """Return when the connection is closed; the body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
