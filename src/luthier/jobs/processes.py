"""Child processes of a worker, each with its own group, and what a worker that was killed has left.

A child cannot outlive its worker: its standard input is a pipe that nobody writes to, and it ends when the pipe does. Where that failed (it
was stopped, or deep in a call that does not return), the next worker finds it by a mark in its environment, which all processes it started
have inherited. A process number alone says nothing: numbers are used again, marks are not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from luthier.core.files import storing
from luthier.jobs.queue import Claim

MARK = "LUTHIER_CHILD"
"""Variable of the environment: ``worker:job:token``."""

STOPPED = 130
"""Exit status of a child that was asked to stop and has saved everything."""

TROUBLE = 3
"""Exit status of a child that met trouble which is not the job's fault: disk, database, a run that another process holds."""

WORKER_IS_GONE = 4
"""Exit status of a child whose pipe closed."""

CLOCK_SLACK = 2.0
"""Seconds by which the start of a process may be told wrongly: it is reckoned from the start of the machine."""


@dataclass
class Child:
    """A running child. `kill_at` is when patience ends, once it was asked to stop."""

    claim: Claim
    process: subprocess.Popen[bytes]
    kill_at: float = 0.0

    @classmethod
    def start(cls, claim: Claim, *, worker_id: str, database: str, log: Path, threads: int = 0) -> Child:
        """Start the child of a claim in a group of its own.

        Args:
            database: address of the database; handed over in the environment, where other users do not see it.
            log: file that gets what the child prints. threads: cores it may use; 0 leaves that to itself.

        Raises:
            StorageError: the log cannot be written.
        """
        env = {**os.environ, MARK: f"{worker_id}:{claim.job_id}:{claim.token}", "LUTHIER_DATABASE": database, **_device(claim.device)}
        if threads:
            env["OMP_NUM_THREADS"] = str(threads)
        command = [sys.executable, "-m", "luthier.jobs.child", claim.job_id, str(claim.token), claim.device]
        with storing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "ab") as words:
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=words, stderr=words, env=env, start_new_session=True)
        return cls(claim, process)

    def stop(self, patience: float) -> None:
        """Ask it, once, to stop at its next step with everything saved; `patience` seconds later it is killed."""
        end = time.monotonic() + patience
        if not self.kill_at:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGTERM)
        self.kill_at = min(self.kill_at or end, end)

    def press(self) -> None:
        """Kill it, and all it has started, if its time to stop is up."""
        if self.kill_at and time.monotonic() > self.kill_at:
            self.kill()

    def kill(self) -> None:
        """End its whole group at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def ended(self) -> int | None:
        """Its exit status once it, and its group, are gone; negative for a signal. None while it runs."""
        if self.process.returncode is not None:
            return self.process.returncode
        if hasattr(os, "waitid"):  # macOS has it since Python 3.13
            if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self.kill()  # what it started. Until it is waited for, below, its number belongs to nobody else
        elif self.process.poll() is None:
            return None
        status = self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        return status


def leave_with_worker() -> None:
    """In a child: end when the pipe from the worker does."""
    threading.Thread(target=_leave_with_worker, daemon=True).start()


def is_running(pid: int, since: float) -> bool:
    """Whether the process that had this number at time `since` still runs: one that took the number later began later."""
    try:
        process = psutil.Process(pid)
        return process.create_time() < since + CLOCK_SLACK and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def kill_marked(worker_id: str) -> int:
    """Kill every process on this machine that a worker's children have left, and wait until they are gone. Returns how many."""
    left = list(_marked(worker_id))
    for process in left:
        with suppress(psutil.Error):
            process.kill()  # psutil makes sure that it still is the process that was found
    psutil.wait_procs(left, timeout=10)
    return len(left)


def _marked(worker_id: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # those of other users do not show their environment
            if process.environ().get(MARK, "").startswith(f"{worker_id}:"):
                yield process


def _leave_with_worker() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(WORKER_IS_GONE)


def _device(name: str) -> dict[str, str]:
    """Which accelerators a child sees: the one of its slot, or none."""
    number = name.removeprefix("cuda:") if name.startswith("cuda:") else ""
    return {"CUDA_VISIBLE_DEVICES": number}
