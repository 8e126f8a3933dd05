"""The process that listens: sockets, TLS, a worker beside it, and an orderly end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from luthier.core.errors import SpecError
from luthier.server.app import make
from luthier.server.beside import Beside
from luthier.server.errors import body
from luthier.server.service import Service
from luthier.server.settings import Settings

BARE = re.compile(rb"(?<!\r)\n")

LAST_WORDS = 2.0
"""Seconds before the end of the grace in which streams are still told why they end; then uvicorn closes their connections."""

HEAD_SECONDS = 30.0
"""Longest wait for the head of a request; uvicorn would wait for ever."""


class Protocol(H11Protocol):
    """uvicorn's HTTP, stricter: a line of a head ends with CR LF, and what is no HTTP is answered in the wire's shape too.

    h11 takes a bare LF as the end of a header; a proxy that does not would see other headers than we do.
    """

    _seen = b""
    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_SECONDS, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def _head_is_there(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE:
            text = self._seen + data
            if BARE.search(text.partition(b"\r\n\r\n")[0], len(self._seen)):
                self.send_400_response("")
                return
            self._seen = text[-3:]  # an end of the head may come in two pieces
            self._head = self._head or self.loop.call_later(HEAD_SECONDS, self.transport.close)
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._head_is_there()

    def send_400_response(self, msg: str) -> None:
        content = json.dumps(body(400, "This is not HTTP as this service reads it.", code="bad_http")).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()), (b"connection", b"close")]
        for event in (h11.Response(status_code=400, headers=headers, reason=b"Bad Request"), h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's server; what is slow to load is loaded once it listens, and streams without an end are told of the service's."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.service.warm()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.stopping.set()
        last = threading.Timer(max(0.0, self.service.settings.grace_seconds - LAST_WORDS), self.service.hush)
        last.daemon = True
        last.start()
        try:
            await super().shutdown(sockets)
        finally:
            last.cancel()


def serve(settings: Settings, *, listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then let streams finish (`grace_seconds`) and the worker save its jobs.

    Args:
        listening: called with the address once connections are taken.

    Raises:
        SpecError: the address is taken, or not of this machine; the certificate cannot be used.
        LuthierError: database or blobs cannot be opened.
    """
    _try_certificate(settings)
    service = Service.open(settings)
    listener = _bound(settings)
    config = _config(settings, service)
    listening(f"{'https' if config.is_ssl else 'http'}://{_shown(settings.host)}:{listener.getsockname()[1]}/v1")
    with Beside.worker(settings):
        Server(config, service).run(sockets=[listener])


def _try_certificate(settings: Settings) -> None:
    """Read it before anything else is done: uvicorn would find out when it listens already."""
    if not settings.certificate:
        return
    files = {"certificate": settings.certificate, "certificate_key": settings.certificate_key}
    for name, file in files.items():
        if not os.access(file, os.R_OK):
            raise SpecError(
                f"The file of {name} cannot be read.", where=file, remedy="Check the path and its rights.", code="bad_certificate"
            )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.certificate, settings.certificate_key, password="")
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        what = f"This certificate cannot be used with this key: {getattr(error, 'reason', None) or error}."
        remedy = "Both are PEM files, the key has no password, and belongs to the certificate."
        raise SpecError(what, where=" and ".join(files.values()), remedy=remedy, code="bad_certificate") from error


def _config(settings: Settings, service: Service) -> uvicorn.Config:
    return uvicorn.Config(
        make(service),
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=settings.behind_proxy,
        timeout_graceful_shutdown=int(settings.grace_seconds),
        ssl_certfile=settings.certificate or None,
        ssl_keyfile=settings.certificate_key or None,
    )


def _bound(settings: Settings) -> socket.socket:
    """A socket that listens already, so that the first request after `listening` waits instead of failing."""
    try:
        host = settings.host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, settings.port), family=family, backlog=2048)
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        remedy = "Take another --port (0 finds a free one), or end whoever listens there."
        raise SpecError(f"Could not listen: {error.strerror}.", where=where, remedy=remedy, code="cannot_listen") from error


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
