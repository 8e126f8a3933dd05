"""Looks at the data of files that came in: every row, in a process of its own that can be ended, one file at a time.

A file is ``uploaded`` until then, and ``processed`` or ``error`` afterwards; what was found is its report. A service that was killed
begins again with the files it finds ``uploaded``.
"""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from luthier.jobs.names import of_file
from luthier.store.blobs import Blobs
from luthier.store.database import Database
from luthier.store.tables.files import File

log = logging.getLogger("luthier.server")

LOOKED_AT = ("fine-tune",)
"""Purposes whose files are examples; the others are taken as they are, and looked at by whoever uses them."""

SECONDS = 1800.0
"""Longest look: 8 GB at a slow 5 MB/s."""


class Examiner:
    """A thread that takes one file after the other."""

    def __init__(self, database: Database, blobs: Blobs) -> None:
        self.database, self.blobs = database, blobs
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._known: set[str] = set()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def add(self, file_id: str) -> None:
        """Look at this file when its turn comes; one that waits already is not taken twice."""
        with self._lock:
            if self._closed or file_id in self._known:
                return
            self._known.add(file_id)
            self._waiting.put(file_id)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="examine", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop at once; what was not looked at is, at the next start."""
        with self._lock:
            self._closed = True
            self._waiting.put(None)
            if self._child:
                self._child.kill()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        while (file_id := self._waiting.get()) is not None and not self._closed:
            try:
                self._look(file_id)
            except Exception:
                log.exception("a file could not be looked at", extra={"file": file_id})
            finally:
                with self._lock:
                    self._known.discard(file_id)

    def _look(self, file_id: str) -> None:
        with self.database.read() as session:
            file = session.scalar(select(File).where(File.id == file_id, File.status == "uploaded"))
        if file is None:
            return
        report = self._report(file) if file.purpose in LOOKED_AT else None
        if self._closed:
            return
        status, details = _status(report)
        with self.database.write() as session:
            changed = update(File).where(File.id == file_id).values(report=report, status=status, status_details=details)
            session.execute(changed)

    def _report(self, file: File) -> dict[str, Any]:
        """How rows lie in a file is told by its suffix too, and blobs have none: so the process sees a link that has it, as a job will."""
        with self.blobs.path(file.digest) as path, tempfile.TemporaryDirectory(prefix="luthier-") as folder:
            link = Path(folder) / of_file(file.filename)
            link.symlink_to(path)
            return self._asked(link, file.filename)

    def _asked(self, path: Path, name: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "luthier.server.look", str(path), name]
        with self._lock:
            if self._closed:
                return {}
            child = self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            output, complaint = child.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return _gave_up(f"Looking at it took more than {SECONDS / 60:.0f} minutes.")
        if child.returncode != 0 and not self._closed:
            log.error("the process that looks at files failed: %s", complaint.decode(errors="replace")[-2000:])
            return _gave_up("The process that read it failed, perhaps for want of memory.")
        found: dict[str, Any] = json.loads(output) if output else {}
        return found


def _gave_up(why: str) -> dict[str, Any]:
    return {"ok": False, "problems": [], "errors": 1, "notes": [why]}


def _status(report: dict[str, Any] | None) -> tuple[str, str | None]:
    """Status and its details: of a file that does not pass, the first problem."""
    if report is None or report["ok"]:
        return "processed", None
    first = next((p for p in report["problems"] if p["severity"] == "error"), None)
    if first is None:
        return "error", str(report["notes"][-1])
    place = f"row {first['row']}: " if first["row"] else ""
    more = f" ({report['errors']:,} errors in all)" if report["errors"] > 1 else ""
    return "error", f"{place}{first['message']} {first['remedy']}{more}"
