"""What goes by itself when its time is up: expired files and uploads, and what killed processes left."""

from __future__ import annotations

from luthier.store import files, uploads
from luthier.store.blobs import Blobs

EVERY = 60.0
"""Seconds between two sweeps of a running service."""


def sweep(blobs: Blobs) -> dict[str, int]:
    """Do it once; how many of each went. Safe at any time and in several processes at once."""
    return {
        "files": files.expire(blobs.database, blobs),
        "uploads": uploads.expire(blobs.database, blobs),
        "blobs": blobs.sweep(),
    }
