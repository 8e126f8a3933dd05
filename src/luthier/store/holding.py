"""One process at a time works on a run.

Who works on a run locks the file ``.lock`` in its folder; the kernel lets go of the lock however its holder ends. The file also keeps the
fencing token of the last holder that had one. Where locks do not reach (some network file systems), somebody who was thought dead finds
his successor's higher token there, right before anything of his would appear under its name.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.core.errors import StorageError
from luthier.core.files import fenced, storing

LOCK = ".lock"


@contextmanager
def held(run: Path, *, token: int | None = None) -> Iterator[None]:
    """Work on the run in this folder, alone, within the block.

    Args:
        token: of whoever holds the job this run belongs to; left out, the one that is there stays.

    Raises:
        StorageError: somebody else works on it (``run_busy``), or a holder with a higher token has been here (``run_taken``), now or
            at any later moment when something is about to be written.
    """
    with storing(run / LOCK):
        handle = os.open(run / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _lock(handle, run)
        mine = max(_read(handle), token or 0)
        if token is not None:
            _check(run, token)
            os.pwrite(handle, str(mine).encode(), 0)  # tokens only grow: the new digits cover the old ones
            os.fsync(handle)
        with fenced(lambda: _check(run, mine)):
            yield
    finally:
        os.close(handle)


def token_of(run: Path) -> int:
    """The highest token that has held this run; 0 where none has."""
    try:
        return int((run / LOCK).read_text() or 0)
    except FileNotFoundError:
        return 0


def _lock(handle: int, run: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        remedy = "Wait until that process ends, or stop it."
        raise StorageError("Another process works on this run.", where=str(run), remedy=remedy, code="run_busy") from error


def _read(handle: int) -> int:
    return int(os.pread(handle, 32, 0) or 0)


def _check(run: Path, mine: int) -> None:
    if token_of(run) > mine:
        raise StorageError("A newer worker has taken this run over.", where=str(run), remedy="Leave the run to it.", code="run_taken")
