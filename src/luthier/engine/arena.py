"""Let glibc keep freed memory: every step asks for the same blocks again, and page faults for them cost 10 to 50 % of a step."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # glibc malloc.h


def keep_memory() -> bool:
    """Ask the allocator not to hand blocks back to the kernel. Process-wide, harmless to repeat.

    Returns:
        whether it could be asked (glibc only).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, value) == 1 for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 1 << 26)))
