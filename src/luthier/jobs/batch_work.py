"""One batch in the hands of one holder: what `batches.Batches` does with the one it has claimed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from luthier.core.errors import LuthierError, NotFound, StorageError
from luthier.inference.serving.ask import ours
from luthier.jobs import webhooks
from luthier.jobs.batch_lines import Answer, Journal, Line, Problem, Request, check, lines, seconds, told
from luthier.store import files
from luthier.store.audit import Deputy, record
from luthier.store.blobs import Blobs, Stored
from luthier.store.database import Database
from luthier.store.tables.batches import Batch

LEASE = 30.0
"""Seconds after which a batch is taken to have lost its holder."""

BEAT = 2.0
"""Seconds between two looks at the row: the lease is renewed, counts are shown, a wish to cancel is seen."""

MOST_OUTPUT = 8 << 30
"""Bytes of an output file."""

AGAIN = frozenset({429, 503})
"""Answers that mean: later. Their lines are asked again until the batch's time is up."""

PATIENCE = 1.0
"""Seconds until a line is asked again that was told to come later."""


class Lost(Exception):
    """The batch has another holder now."""


class Work:
    """One batch in the hands of one holder."""

    def __init__(self, batch: Batch, database: Database, blobs: Blobs, answer: Answer, *, at_once: int, stopping: threading.Event) -> None:
        self.batch, self.token = batch, batch.token
        self.database, self.blobs, self.answer, self.at_once, self.stopping = database, blobs, answer, at_once, stopping
        self.ends = batch.created_at + seconds(batch.completion_window)
        self.cancelled = batch.state == "cancelling"
        self.looked = 0.0

    def do(self) -> None:
        """Go on from wherever it is, as far as can be."""
        try:
            journal = Journal(self.batch.id)
        except StorageError as error:
            raise Lost from error
        over = False
        try:
            over = not self._checked()
            if not over:
                self._answer(journal)
                over = self._finish(journal)
        except (NotFound, StorageError) as error:
            if error.code not in ("unknown_file", "blob_lost"):
                raise
            self._fail([Problem(error.code, error.what, param="input_file_id")])  # the input was deleted meanwhile
            over = True
        finally:
            journal.close(remove=over)
            self._let_go()

    def _checked(self) -> bool:
        """Read the whole file once before anything is asked. Whether it can be."""
        if self.batch.state != "validating":
            return True
        with self._input() as path:
            found = check(path, self.batch.endpoint)
        if found.problems:
            self._fail(found.problems)
            return False
        with self._fenced() as (session, batch):
            batch.counts, batch.model = {"total": found.count, "completed": 0, "failed": 0}, found.model
            if batch.state == "validating":
                _move(session, batch, "in_progress")
            self.cancelled = batch.state == "cancelling"
        return True

    def _fail(self, problems: list[Problem]) -> None:
        with self._fenced() as (session, batch):
            batch.errors = [problem.to_json() for problem in problems]
            _move(session, batch, "failed")

    @contextmanager
    def _input(self) -> Iterator[Path]:
        with self.database.read() as session:
            file = files.get(session, self.batch.project_id, self.batch.input_file_id)
        with self.blobs.path(file.digest) as path:
            yield path

    def _answer(self, journal: Journal) -> None:
        """Ask every line that has no answer yet, some at a time."""
        done, asked = journal.done, set[Future[None]]()
        with self._input() as path, ThreadPoolExecutor(self.at_once, thread_name_prefix="line") as pool:
            waiting = (line for line in lines(path, self.batch.endpoint) if line.number not in done)
            while True:
                self._look(journal)
                while len(asked) < self.at_once and self._goes_on and (line := next(waiting, None)):
                    asked.add(pool.submit(self._line, line, journal))
                if not asked:
                    return
                over, asked = wait(asked, timeout=BEAT, return_when=FIRST_COMPLETED)
                for future in over:
                    future.result()  # what went wrong with the journal itself

    def _line(self, line: Line, journal: Journal) -> None:
        request = Request(self.batch.endpoint, line.body, self.batch.project_id, f"{self.batch.key_id} batch")
        while self._goes_on:
            try:
                reply = self.answer(request)
            except Exception as error:
                if isinstance(error, LuthierError) and error.code == "closing":
                    return  # asked again at the next start
                journal.add(line.number, told(line, error=ours(error).to_json()), is_error=True)
                return
            if reply.status not in AGAIN:
                journal.add(line.number, told(line, reply), is_error=reply.status >= 400)
                return
            self.stopping.wait(PATIENCE)

    @property
    def _goes_on(self) -> bool:
        return not self.cancelled and not self.stopping.is_set() and time.time() < self.ends

    def _look(self, journal: Journal) -> None:
        """Now and then: make the lease longer, show how far it is, see whether it is still wanted."""
        if time.monotonic() - self.looked < BEAT:
            return
        with self._fenced() as (_, batch):
            batch.lease_until = time.time() + LEASE
            batch.counts = self._counts(journal)
            self.cancelled = batch.state == "cancelling"
        self.looked = time.monotonic()

    def _finish(self, journal: Journal) -> bool:
        """Make the files, unless there is more to be asked. Whether the batch is over."""
        total = self.batch.counts.get("total", 0)
        whole = len(journal.done) == total
        if not self.cancelled and not whole and time.time() < self.ends:
            return False
        end = "cancelled" if self.cancelled else "completed" if whole else "expired"
        if end == "expired":
            self._give_up(journal)
        if end == "completed":
            with self._fenced() as (session, batch):
                _move(session, batch, "finalizing")
        stored = {errors: self._put(journal, errors=errors) for errors in (False, True)}
        with self._fenced() as (session, batch):
            who = Deputy("batches", None, batch.project_id)
            keep = (batch.output_expires or {}).get("seconds")
            for errors, part in stored.items():
                if part is not None:
                    name = f"{batch.id}_{'error' if errors else 'output'}.jsonl"
                    file = files.add(session, who, part, filename=name, purpose="batch_output", expires_after=keep)
                    setattr(batch, "error_file_id" if errors else "output_file_id", file.id)
            batch.counts, batch.usage = self._counts(journal), journal.usage()
            _move(session, batch, end)
        return True

    def _give_up(self, journal: Journal) -> None:
        """The time is up: what has no answer gets an error."""
        done = journal.done
        why = {"code": "batch_expired", "message": "This request could not be answered before the batch's time was up."}
        with self._input() as path:
            for line in lines(path, self.batch.endpoint):
                if line.number not in done:
                    journal.add(line.number, told(line, error=why), is_error=True)

    def _put(self, journal: Journal, *, errors: bool) -> Stored | None:
        if (journal.failed if errors else len(journal.done) - journal.failed) == 0:
            return None
        return self.blobs.put(journal.answers(errors=errors), most=MOST_OUTPUT)

    def _counts(self, journal: Journal) -> dict[str, int]:
        total, done, failed = self.batch.counts.get("total", 0), len(journal.done), journal.failed
        return {"total": total, "completed": done - failed, "failed": failed}

    @contextmanager
    def _fenced(self) -> Iterator[tuple[Session, Batch]]:
        """The batch's row, locked, in the name of this holder.

        Raises:
            Lost: there is another one now, or the batch is gone.
        """
        with self.database.write() as session:
            batch = session.scalar(select(Batch).where(Batch.id == self.batch.id).with_for_update())
            if batch is None or batch.token != self.token:
                raise Lost
            yield session, batch
            self.batch = batch

    def _let_go(self) -> None:
        """Others may take it up at once, if there is anything left to do."""
        try:
            with self._fenced() as (_, batch):
                batch.lease_until = None
        except Lost:
            pass


def _move(session: Session, batch: Batch, state: str) -> None:
    batch.state = state
    batch.times = {**batch.times, f"{state}_at": time.time()}
    record(session, Deputy("batches", None, batch.project_id), f"batch.{state}", batch.id)
    webhooks.announce(session, batch.project_id, f"batch.{state}", batch.id)
