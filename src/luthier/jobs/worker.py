"""The worker: one process on a machine that lets jobs be done, each in a child process of its own.

    every moment: look what users want -> ask children to stop -> see who has ended -> renew leases -> fill free slots

It keeps nothing that is not in the database. Killed at any moment, it takes its children with it (`processes`); the next one kills what is
left of them all the same, gives their jobs back, and they go on from their checkpoints. A thread beside sends webhooks.
"""

from __future__ import annotations

import fcntl
import glob
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, or_, select

from luthier.core.errors import StorageError
from luthier.core.files import storing
from luthier.core.home import home
from luthier.jobs import processes, queue, webhooks
from luthier.jobs.processes import Child
from luthier.jobs.queue import CHECKING, Claim
from luthier.store import ids
from luthier.store.database import Database
from luthier.store.tables.jobs import Worker as WorkerRow

LOCK = "worker.lock"

FORGOTTEN = 24 * 3600.0
"""Seconds after which a worker of another machine that is silent is no longer listed; its jobs were taken over long before."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a worker works.

    Attributes:
        database: address of the database. slots: how many jobs each device takes at once; ``cpu``, ``cuda:0`` ...
        lease: seconds after which others take its jobs to be lost. moment: seconds between two looks.
        patience: seconds a child may take to stop with a checkpoint. cancel_patience: the same where nothing is to be kept.
        private: webhooks may lead into our own network.
        with_parent: leave when standard input ends, and wait for a worker before this one that is still leaving.
    """

    database: str
    slots: dict[str, int] = field(default_factory=lambda: devices())
    lease: float = queue.LEASE
    moment: float = 0.3
    patience: float = 120.0
    cancel_patience: float = 15.0
    private: bool = False
    with_parent: bool = False


def devices() -> dict[str, int]:
    """The slots of this machine: one for each accelerator, or one for the processor where there is none."""
    found = sorted(glob.glob("/dev/nvidia[0-9]*"))
    return {f"cuda:{number}": 1 for number in range(len(found))} or {"cpu": 1}


class Worker:
    """A worker and its children.

    Args:
        say: hears one line for everything it does.
    """

    def __init__(self, database: Database, settings: Settings, *, say: Say = lambda _: None) -> None:
        self.database, self.settings, self.say = database, settings, say
        self.slots = {**settings.slots, CHECKING: 1}
        self.id = ids.new("worker_")
        self.children: list[Child] = []
        self.asked = threading.Event()
        self.renewed = 0.0

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; then let every child stop with a checkpoint, and leave.

        Raises:
            StorageError: a worker runs on this machine already (``worker_runs``).
        """
        with self._listening(), _lock_file() as file:
            if self.settings.with_parent:
                threading.Thread(target=self._leave_with_parent, daemon=True).start()
            while not _locked(file):
                if not self.settings.with_parent:
                    raise _runs_already()
                if self.asked.wait(0.5):
                    return
            self._work()

    def _work(self) -> None:
        self._register()
        self.say(f"{self.id} takes jobs: {', '.join(f'{jobs} on {device}' for device, jobs in self.settings.slots.items())}")
        thread = threading.Thread(target=self._send_webhooks, daemon=True)
        thread.start()
        while not self.asked.is_set() or self.children:
            self._patiently(self.look)
            self.asked.wait(self.settings.moment) if not self.asked.is_set() else time.sleep(self.settings.moment)
        self._patiently(self._leave)
        thread.join(webhooks.PATIENCE)

    def look(self) -> None:
        """One round."""
        self._obey()
        self._reap()
        self._renew()
        if not self.asked.is_set():
            self._fill()

    def _obey(self) -> None:
        """Ask children to stop whose job is to be paused or cancelled, or has another holder; all of them once we are asked to leave."""
        wanted = queue.wanted(self.database, self._claims()) if self.children else {}
        for child in self.children:
            want = wanted.get(child.claim, "taken")
            if want == "taken":
                self._end_taken(child)
            elif want == "cancel":
                child.stop(self.settings.cancel_patience)
            elif want == "pause" or self.asked.is_set():
                child.stop(self.settings.patience)
            child.press()

    def _end_taken(self, child: Child) -> None:
        """Its job is over, or another's: a child that is leaving by itself has a moment for that."""
        child.kill_at = child.kill_at or time.monotonic() + self.settings.cancel_patience

    def _reap(self) -> None:
        """Give back the jobs of children that are gone."""
        for child in list(self.children):
            status = child.ended()
            if status is None:
                continue
            self.say(f"{child.claim.job_id} {child.claim.device}: ended with {status}")
            asked = child.kill_at > 0 or status == processes.STOPPED
            crash = "" if status == 0 or asked else self._how(child, status)
            queue.release(self.database, child.claim, crash=crash, how=_loss(status))
            self.children.remove(child)

    def _renew(self) -> None:
        """Make leases longer, a few times within each."""
        if time.monotonic() - self.renewed > self.settings.lease / 6:
            queue.heartbeat(self.database, self._claims(), worker_id=self.id, lease=self.settings.lease)
            self.renewed = time.monotonic()

    def _fill(self) -> None:
        """Start a child for every free slot that a job waits for."""
        for device, slots in self.slots.items():
            while sum(child.claim.device == device for child in self.children) < slots:
                claim = queue.claim(self.database, worker_id=self.id, device=device, lease=self.settings.lease)
                if claim is None:
                    break
                self._start(claim)

    def _start(self, claim: Claim) -> None:
        log = home() / "logs" / f"{claim.job_id}.log"
        slots = self.slots.get("cpu", 1)
        threads = max(1, (os.cpu_count() or 1) // slots) if claim.device == "cpu" and slots > 1 else 0
        try:
            child = Child.start(claim, worker_id=self.id, database=self.settings.database, log=log, threads=threads)
        except OSError as error:
            queue.release(self.database, claim, crash=f"it could not be started: {error}", how=queue.TROUBLED)
            return
        self.children.append(child)
        self.say(f"{claim.job_id} {claim.device}: process {child.process.pid}, token {claim.token}")
        with queue.fenced(self.database, claim) as (_, job):
            job.child = child.process.pid

    def _how(self, child: Child, status: int) -> str:
        """How a child ended, with the last thing it said."""
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        log = home() / "logs" / f"{child.claim.job_id}.log"
        last = (log.read_text(errors="replace").strip().splitlines() or [""])[-1] if log.is_file() else ""
        return f"it ended with {status}: {last.replace(str(home()), 'LUTHIER_HOME')[:500]}"

    def _claims(self) -> list[Claim]:
        return [child.claim for child in self.children]

    def _register(self) -> None:
        """Write down that we are here, and clean up after workers of this machine that are not."""
        with self.database.write() as session:
            here = WorkerRow.host == platform.node()
            gone = [row for row in session.scalars(select(WorkerRow).where(here)) if not processes.is_running(row.pid, row.created_at)]
        for row in gone:
            killed = processes.kill_marked(row.id)
            given_back = queue.recover(self.database, row.id)
            self.say(f"{row.id} is gone: {killed} processes killed, {given_back} jobs given back")
        with self.database.write() as session:
            silent = WorkerRow.seen_at < time.time() - FORGOTTEN
            session.execute(delete(WorkerRow).where(or_(WorkerRow.id.in_([row.id for row in gone]), silent)))
            facts: dict[str, Any] = {"host": platform.node(), "pid": os.getpid(), "seen_at": time.time(), "slots": self.slots}
            session.add(WorkerRow(id=self.id, created_at=time.time(), **facts))

    def _leave(self) -> None:
        with self.database.write() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.id == self.id))

    def _patiently(self, step: Callable[[], None]) -> None:
        """A database in trouble is waited for: the children go on meanwhile, and their leases may run out."""
        try:
            step()
        except StorageError as error:
            self.say(f"{error.code}: {error}")
            time.sleep(1.0)

    def _leave_with_parent(self) -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        self.asked.set()

    def _send_webhooks(self) -> None:
        while not self.asked.is_set():
            sent = 0
            try:
                sent = webhooks.deliver(self.database, private=self.settings.private)
            except StorageError as error:
                self.say(f"webhooks: {error}")
            if not sent:
                self.asked.wait(1.0)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """SIGTERM and SIGINT: leave in good order. A second SIGINT: at once."""

        def hear(number: int, frame: Any) -> None:
            if self.asked.is_set() and number == signal.SIGINT:
                for child in self.children:
                    child.kill()
                sys.exit(1)
            self.asked.set()

        before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _loss(status: int) -> queue.Loss:
    """What an exit status means."""
    return queue.KILLED if status < 0 else queue.TROUBLED if status == processes.TROUBLE else queue.CRASHED


@contextmanager
def _lock_file() -> Iterator[int]:
    """The file by which workers with the same home know of each other."""
    file = home() / LOCK
    with storing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    """Take the lock, unless another worker has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _runs_already() -> StorageError:
    remedy = "One is enough: it has a slot for each device. Stop it first to change its slots."
    return StorageError("A worker runs here already.", where=str(home() / LOCK), remedy=remedy, code="worker_runs")
