"""The engine's thread: takes questions from any thread, and steps while there is something to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from luthier.core.errors import ResultError
from luthier.inference.serving.ask import ours
from luthier.inference.serving.batch import Batch
from luthier.inference.serving.rows import Row

Result = TypeVar("Result")


class Batcher:
    """A batch and the thread that owns it.

    Args:
        name: of the thread, for whoever looks at a stuck process.
    """

    def __init__(self, batch: Batch, *, name: str = "engine") -> None:
        self.batch = batch
        self._inbox: list[Callable[[], None]] = []
        self._change = threading.Condition()
        self._closing = False
        self._give_up = float("inf")  # monotonic seconds
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def ask(self, rows: list[Row]) -> None:
        """Put rows of one question in line; it is answered through its `Answering`.

        Raises:
            ResultError: the engine is closing.
        """
        rows[0].question.answering.on_cancel(self._nudge)
        self._send(lambda: self.batch.enter(rows))

    def between(self, work: Callable[[], Result]) -> Future[Result]:
        """Have `work` done between two steps, where the network and its slots may be changed."""
        future: Future[Result] = Future()

        def do() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self._send(do)
        return future

    def close(self, grace_seconds: float = 0.0) -> None:
        """Take no more questions; let those here end for so many seconds, then break them off. Returns when the thread is gone."""
        with self._change:
            self._closing, self._give_up = True, time.monotonic() + grace_seconds
            self._change.notify()
        self._thread.join()

    def _send(self, work: Callable[[], None]) -> None:
        with self._change:
            if self._closing:
                raise closing()
            self._inbox.append(work)
            self._change.notify()

    def _nudge(self) -> None:
        """Something changed that a step should see."""
        with self._change:
            self._inbox.append(lambda: None)
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._inbox and self.batch.idle and not self._closing:
                    self._change.wait()
                inbox, self._inbox = self._inbox, []
                over = self._closing and (self.batch.idle or time.monotonic() >= self._give_up) and not inbox
            if over:
                self.batch.drop(closing())
                return
            for work in inbox:
                work()
            self._step()

    def _step(self) -> None:
        try:
            self.batch.step()
        except Exception as error:  # a fault of ours: everybody here is told, the next ones are served
            self.batch.drop(ours(error))


def closing() -> ResultError:
    """What who asks too late hears."""
    return ResultError("The service is shutting down.", remedy="Ask again when it is back.", code="closing")
