"""Files that are being received: locked for as long as their writer lives, so that the rest can be told from what the dead have left."""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from luthier.core.files import storing

NEWBORN = 60.0
"""Seconds in which a file may still be without its lock."""


@contextmanager
def receiving(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file in `folder`, and its path; gone at the end if it was not moved away."""
    file = folder / f"{secrets.token_hex(8)}.part"
    with storing(file):
        sink = open(file, "xb")  # noqa: SIM115 - closed below; only the opening may blame the disk
    try:
        fcntl.flock(sink, fcntl.LOCK_EX)
        yield sink, file
    finally:
        file.unlink(missing_ok=True)
        with suppress(OSError):  # what could not be written is written no more
            sink.close()


def sweep(folder: Path) -> int:
    """Remove the files of `folder` whose writers are gone. Returns how many."""
    return sum(_abandoned(file) for file in folder.iterdir())


def _abandoned(file: Path) -> bool:
    with suppress(FileNotFoundError), open(file, "rb") as handle:
        if time.time() - os.fstat(handle.fileno()).st_mtime < NEWBORN:
            return False
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.unlink()
            return True
    return False
