"""What endpoints stand on: database, blobs, models, limits and settings of one service; made once, handed to each request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from fastapi import Request as HttpRequest
from sqlalchemy import select

from luthier.jobs.batch_lines import Reply, Request
from luthier.jobs.batches import Batches
from luthier.security.limits import Limiter
from luthier.server.examine import Examiner
from luthier.server.settings import Settings
from luthier.store import sweep
from luthier.store.blobs import Blobs
from luthier.store.database import Database
from luthier.store.tables.files import File
from luthier.store.upgrade import open_database

if TYPE_CHECKING:
    from luthier.jobs.serving import Host

log = logging.getLogger("luthier.server")


@dataclass
class Service:
    """One service.

    Attributes:
        limiter: counts what each key asks. examiner: looks at the data of files that came in.
        batches: answers files of requests.
        stopping: set when the service is asked to stop: endless streams end.
        begun: when it was made, seconds since 1970.
    """

    settings: Settings
    database: Database
    blobs: Blobs
    limiter: Limiter
    examiner: Examiner
    batches: Batches = field(init=False)
    stopping: threading.Event = field(default_factory=threading.Event)
    begun: float = field(default_factory=time.time)
    _host: Host | None = None
    _making: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, settings: Settings) -> Service:
        """Database and blobs as the settings say; tables are made or brought forward."""
        database = open_database(settings.database_url())
        blobs = Blobs.open(database, settings.blobs)
        return cls(settings, database, blobs, Limiter(), Examiner(database, blobs))

    def __post_init__(self) -> None:
        self.batches = Batches(self.database, self.blobs, self._line)

    @property
    def host(self) -> Host:
        """Who answers chats. The first call imports torch, which takes seconds: never from the event loop (see `warm`)."""
        with self._making:
            if self._host is None:
                from luthier.jobs.serving import Host

                self._host = Host(self.database, self.blobs, self.settings)
            return self._host

    @property
    def is_warm(self) -> bool:
        """Whether the host is there."""
        return self._host is not None

    def warm(self) -> None:
        """Make the host in a thread, once the service listens."""
        threading.Thread(target=self._warmed, name="warm", daemon=True).start()

    def examine(self, file: File) -> None:
        """Have the data of a new file looked at, soon and elsewhere."""
        self.examiner.add(file.id)

    def tend(self, stop: threading.Event) -> None:
        """Until `stop`: take away what has expired; look at files nobody looked at, e.g. because the service was killed."""
        while True:
            for name, work in (("examine", self._unexamined), ("sweep", lambda: sweep.sweep(self.blobs))):
                _quietly(name, work)
            if stop.wait(sweep.EVERY):
                return

    def hush(self) -> None:
        """Break off the answers that are being written: who waits for one is told that the service ends."""
        if self._host is not None:
            self._host.close()

    def close(self) -> None:
        """Let go of everything. Lines of batches that are being answered are given up, and asked again at the next start."""
        self.examiner.close()
        self.hush()
        self.batches.close()
        self.database.close()

    def _line(self, request: Request) -> Reply:
        """The answer to a line of a batch; what imports torch waits until there is one."""
        from luthier.server.answering.lines import Lines

        return Lines(self.host, self.settings.answer_seconds)(request)

    def _warmed(self) -> None:
        _quietly("warm", lambda: self.host)

    def _unexamined(self) -> None:
        with self.database.read() as session:
            for id in session.scalars(select(File.id).where(File.status == "uploaded")):
                self.examiner.add(id)


def _quietly(name: str, work: Callable[[], object]) -> None:
    """What runs beside requests must not end because it failed once; the log has it."""
    try:
        work()
    except Exception:
        log.exception("%s failed", name)


def service_of(request: HttpRequest) -> Service:
    """The service a request came to."""
    service: Service = request.app.state.service
    return service


Ours = Annotated[Service, Depends(service_of)]
