"""Bytes on their way from a form to the blobs: pulled by the thread that writes them, so a slow disk slows the sender, not the service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from anyio import CapacityLimiter, from_thread, to_thread

from luthier.core.errors import DataError
from luthier.server import metrics
from luthier.server.multipart import Part, too_large
from luthier.store.blobs import Blobs, Stored

AT_ONCE = 32
"""Files received at the same time; each keeps one thread, which waits most of the time."""
PIECE = 1 << 20
"""Bytes handed to the writing thread at once."""

_threads: list[CapacityLimiter] = []


async def keep(part: Part, blobs: Blobs, *, most: int) -> Stored:
    """Put the bytes of `part` into the blobs.

    Args:
        most: bytes that are taken.

    Raises:
        WireError: 413, or what the form is refused for; nothing is left behind, neither then nor when the client goes away.
    """
    pieces = _gathered(part)

    async def following() -> bytes:
        return await anext(pieces, b"")

    def pulled() -> Iterator[bytes]:
        while piece := from_thread.run(following):
            metrics.uploaded(len(piece))
            yield piece

    try:
        return await to_thread.run_sync(lambda: blobs.put(pulled(), most=most), limiter=_limiter())
    except DataError as error:
        raise (too_large(most) if error.code == "too_many_bytes" else error) from None


def _limiter() -> CapacityLimiter:
    """Made inside of the loop it belongs to."""
    if not _threads:
        _threads.append(CapacityLimiter(AT_ONCE))
    return _threads[0]


async def _gathered(part: Part) -> AsyncIterator[bytes]:
    """The bytes of a part in pieces worth a change of threads."""
    held = bytearray()
    async for piece in part:
        held += piece
        if len(held) >= PIECE:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
