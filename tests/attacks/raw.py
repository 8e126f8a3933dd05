"""Bytes on the line, as no client would send them."""

from __future__ import annotations

import socket
from contextlib import suppress

from server.live import Live


def spoken(live: Live, *raw: bytes) -> bytes:
    """What the service says to bytes that no client would send, until it closes or is silent."""
    host, port = live.url.removeprefix("http://").split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=1) as line, suppress(TimeoutError, ConnectionResetError):
        for piece in raw:
            line.sendall(piece)
        while piece := line.recv(1 << 16):
            said += piece
    return said


def head(live: Live, first: str, *headers: str) -> bytes:
    """A head with a good host and key."""
    host = live.url.removeprefix("http://")
    return "\r\n".join([first, f"Host: {host}", f"Authorization: Bearer {live.secret}", *headers, "", ""]).encode()
