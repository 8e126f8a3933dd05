"""Batches: files of requests, answered in the background, many lines at once.

    validating --bad lines--> failed
        |
    in_progress --> finalizing --> completed          cancelling --> cancelled           (time is up) --> expired

One process at a time holds a batch: by a lease, which it renews, and a token, which every write of its asks for. Whoever takes over
asks only the lines that the journal (batch_lines.py) does not have; where the journal lies on another machine, all of them, and the first
one's answers are dropped with its token. The output appears in one transaction.
"""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy import or_, select

from luthier.jobs.batch_lines import Answer
from luthier.jobs.batch_work import BEAT, LEASE, Lost, Work
from luthier.store.blobs import Blobs
from luthier.store.database import Database
from luthier.store.tables.batches import Batch

log = logging.getLogger(__name__)

LANES = 3
"""Batches worked on at once, so that a short one does not wait for a long one."""

AT_ONCE = 8
"""Lines of each that are asked at once: enough to keep a base busy, and room is left for those who wait at a screen."""

OPEN = ("validating", "in_progress", "finalizing", "cancelling")
"""States in which somebody must do something."""


class Batches:
    """Works on batches, a few at a time, until it is closed.

    Args:
        answer: how a line is answered; the server hands it in, because it knows the wire.
    """

    def __init__(self, database: Database, blobs: Blobs, answer: Answer, *, at_once: int = AT_ONCE) -> None:
        self.database, self.blobs, self.answer, self.at_once = database, blobs, answer, at_once
        self._stop = threading.Event()
        self._news = threading.Event()
        self._lanes = [threading.Thread(target=self._run, name=f"batches {lane}", daemon=True) for lane in range(LANES)]

    def start(self) -> None:
        """Begin to look for batches."""
        for lane in self._lanes:
            lane.start()

    def poke(self) -> None:
        """A batch was made or cancelled: look now."""
        self._news.set()

    def close(self) -> None:
        """Stop after the lines that are being answered; what is not done goes on at the next start."""
        self._stop.set()
        self._news.set()
        for lane in self._lanes:
            if lane.is_alive():
                lane.join()

    def work(self) -> bool:
        """Take the batch that has waited longest and do all that can be done for it. Whether there was one."""
        claimed = self._claim()
        if claimed is None:
            return False
        try:
            self._work(claimed).do()
        except Lost:
            log.warning("%s has another holder now", claimed.id)
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            self._news.clear()
            try:
                if self.work():
                    continue
            except Exception:  # a database that is away comes back; the batch's lease runs out, and it is taken up again
                log.exception("batches")
            self._news.wait(BEAT)

    def _claim(self) -> Batch | None:
        now = time.time()
        free = or_(Batch.lease_until.is_(None), Batch.lease_until < now)
        wanted = select(Batch).where(Batch.state.in_(OPEN), free).order_by(Batch.n).limit(1)
        with self.database.read() as session:  # mostly there is none: nothing is locked to find that out
            if session.scalar(wanted) is None:
                return None
        with self.database.write() as session:
            batch = session.scalar(wanted.with_for_update(skip_locked=True))
            if batch is not None:
                batch.token, batch.lease_until = batch.token + 1, now + LEASE
            return batch

    def _work(self, batch: Batch) -> Work:
        return Work(batch, self.database, self.blobs, self.answer, at_once=self.at_once, stopping=self._stop)
