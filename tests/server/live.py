"""A real service on loopback, in a thread: real sockets, real database, real blobs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import uvicorn
from fastapi import FastAPI

from luthier.security.tenants import first_start
from luthier.server.app import make
from luthier.server.run import Protocol
from luthier.server.service import Service
from luthier.server.settings import Settings
from server import specification

JUDGE = specification.found()
HOOKS: Any = {"response": [JUDGE.judge]} if JUDGE else {}


@dataclass
class Live:
    """A service that listens. secret: the first key, which owns everything."""

    service: Service
    app: FastAPI
    url: str
    secret: str
    opened: list[httpx2.Client] = field(default_factory=list)

    def client(self, secret: str = "", **options: Any) -> openai.OpenAI:
        """The unmodified client; each answer is held against the specification, where that is at hand."""
        judged = openai.DefaultHttpxClient(event_hooks=HOOKS)
        self.opened.append(judged)
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=secret or self.secret, http_client=judged, **options)

    def http(self, secret: str = "", **options: Any) -> httpx2.Client:
        """Plain HTTP with the key."""
        headers = {"authorization": f"Bearer {secret or self.secret}"}
        return httpx2.Client(base_url=self.url, headers=headers, timeout=30, event_hooks=HOOKS, **options)


def listening(folder: Path, **said: Any) -> Iterator[Live]:
    """Start a service in a thread, stop it at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings.read(environment={}, database=f"sqlite:///{folder / 'luthier.db'}", blobs=str(folder / "blobs"), port=0, **said)
    service = Service.open(settings)
    key = first_start(service.database)
    assert key
    app = make(service)
    server = uvicorn.Server(uvicorn.Config(app, http=Protocol, ws="none", log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.005)
        yield (live := Live(service, app, f"http://127.0.0.1:{listener.getsockname()[1]}", key.secret))
        for client in live.opened:
            client.close()
        server.should_exit = True
        thread.join(20)
