"""Server-sent events: the frames of a stream."""

from __future__ import annotations

MEDIA_TYPE = "text/event-stream"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""Nothing on the way may keep frames back."""

DONE = b"data: [DONE]\n\n"
ALIVE = b": still here\n\n"
QUIET = 15.0
"""Seconds of silence after which a comment tells proxies that the line is alive."""


def frame(content: str, *, id: str = "") -> bytes:
    """One frame with JSON, which has no line ends in it."""
    return (f"id: {id}\n" if id else "").encode() + b"data: " + content.encode() + b"\n\n"
