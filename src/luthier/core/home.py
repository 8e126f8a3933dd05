"""Where Luthier keeps what is not the user's own file: runs, caches, keys."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """``LUTHIER_HOME``, or ``~/.luthier``. Not created by asking."""
    return Path(os.environ.get("LUTHIER_HOME") or Path.home() / ".luthier").expanduser()


def runs_folder() -> Path:
    """Where runs live unless ``--out`` says otherwise."""
    return home() / "runs"


def cache_folder() -> Path:
    """What can be deleted at any time and is made again."""
    return home() / "cache"
