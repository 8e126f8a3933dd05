"""Weight files mapped into memory: where they lie, and forgetting pages that were only read to be copied.

A page of a mapped file counts as resident from its first read on, and stays until memory is short. Weights that were copied - to lie beside
others, or into another number format - would be there twice.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from pathlib import Path

_DONT_NEED = 4  # linux/mman.h


@dataclass
class Span:
    """A weight file in this process: first and last address, resident bytes, and bytes that were changed here (copied on write)."""

    start: int
    end: int
    resident: int = 0
    changed: int = 0


def spans(folder: Path) -> list[Span]:
    """The weight files of `folder` as they are mapped into this process now; empty where nobody can tell (Linux can)."""
    if not sys.platform.startswith("linux"):
        return []
    found: list[Span] = []
    mine = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            mine = line.endswith(".safetensors") and str(folder.resolve()) in line
            if mine:
                found.append(Span(*(int(part, 16) for part in first.split("-"))))
        elif mine and first == "Rss:":
            found[-1].resident = int(rest[0]) * 1024
        elif mine and first == "Anonymous:":
            found[-1].changed = int(rest[0]) * 1024
    return found


def forget(folder: Path) -> None:
    """Let go of all pages of the weight files; those still in use come back from the file when they are next read.

    A file of which anything was changed in memory is left alone: the change would be gone.
    """
    for span in spans(folder):
        if not span.changed:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(span.start), ctypes.c_size_t(span.end - span.start), _DONT_NEED)
