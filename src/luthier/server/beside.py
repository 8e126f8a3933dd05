"""A process beside the service: started with it, started again should it die, asked to stop and waited for at the end.

The child reads its standard input and stops when that ends: so it does not outlive a service that was killed.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from luthier.server.settings import Settings

log = logging.getLogger("luthier.server")

PAUSES = (0.5, 1.0, 2.0, 5.0, 15.0, 60.0)
"""Seconds before it is started again; a run of a minute begins the row anew."""
STEADY = 60.0

WORKER_GRACE = 150.0
"""Seconds a worker has to stop its jobs with a checkpoint; it gives each of them two minutes itself."""


class Beside:
    """Keeps ``command`` running for as long as the block.

    Args:
        command: empty keeps nothing running. grace: seconds the child has to save what it does.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], *, grace: float) -> None:
        self.command, self.environment, self.grace = list(command), environment, grace
        self._stop = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="beside", daemon=True)

    @classmethod
    def worker(cls, settings: Settings) -> Beside:
        """The worker of this host, unless the settings want none. Addresses go by the environment: they may hold passwords."""
        private = ["--private-webhooks"] if settings.private_webhooks else []
        command = [sys.executable, "-m", "luthier", "worker", "--with-parent", *private] if settings.worker else []
        environment = dict(os.environ, LUTHIER_DATABASE=settings.database_url())
        if settings.blobs:
            environment["LUTHIER_BLOBS"] = settings.blobs
        return cls(command, environment, grace=WORKER_GRACE)

    def __enter__(self) -> Beside:
        if self.command:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self.command:
            self._end()
            self._thread.join()

    def _keep(self) -> None:
        deaths = 0
        while not self._stop.is_set():
            begun = time.monotonic()
            code = self._run()
            if self._stop.is_set():
                return
            deaths = 0 if time.monotonic() - begun > STEADY else deaths + 1
            pause = PAUSES[min(deaths, len(PAUSES) - 1)]
            log.warning("the worker ended and is started again", extra={"code": code, "seconds": pause})
            self._stop.wait(pause)

    def _run(self) -> int:
        with self._lock:
            if self._stop.is_set():
                return 0
            self._child = subprocess.Popen(self.command, stdin=subprocess.PIPE, env=self.environment, start_new_session=True)
        return self._child.wait()

    def _end(self) -> None:
        """Ask it to stop; after `grace` it is killed, which costs the steps since the last checkpoint and nothing else."""
        with self._lock:
            child = self._child
        if child is None or child.poll() is not None:
            return
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(self.grace)
        except subprocess.TimeoutExpired:
            log.warning("the worker did not stop in time and is killed")
            child.kill()
