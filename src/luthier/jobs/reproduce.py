"""Do a run again in a fresh folder and compare what came out, bit by bit."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import NotFound
from luthier.core.events import Listener, silence
from luthier.jobs import capsule, run, specs
from luthier.store import runs


@dataclass(frozen=True)
class Reproduction:
    """Whether the second run equals the first.

    Attributes:
        same: every trained weight file has the same sha256. differing: weight files that have not.
        changed: versions and machine facts that differ, the likely reason: ``{"torch": ["2.13.0", "2.14.0"]}``.
    """

    same: bool
    differing: list[str]
    changed: dict[str, list[Any]]

    def to_json(self) -> dict[str, Any]:
        """As plain fields."""
        return asdict(self)


def reproduce(name: str | Path, *, out: Path | None = None, listen: Listener = silence) -> Reproduction:
    """Re-run a finished run's Spec and compare the hashes of the trained weights.

    Args:
        out: keep the second run there; otherwise it is made in a temporary folder and removed.

    Raises:
        NotFound: the run is not finished. DataError: its data is not what it was.
    """
    folder = runs.find(str(name))
    sealed = capsule.read(folder)
    if "weights" not in sealed:
        raise NotFound(
            "This run has no trained weights to compare with.",
            where=str(folder.path),
            remedy=f"luthier tune --resume {folder.name}",
            code="unfinished_run",
        )
    spec = specs.load(folder.spec)
    capsule.verify_data(folder, spec)
    with _place(out) as place:
        again = capsule.read(run.train_only(spec, out=place, listen=listen))
    return compare(sealed, again)


def compare(first: dict[str, Any], second: dict[str, Any]) -> Reproduction:
    """Two capsules: equal weights or not, and what else differs."""
    names = first["weights"].keys() | second["weights"].keys()
    differing = sorted(name for name in names if first["weights"].get(name) != second["weights"].get(name))
    changed = {}
    for section in ("versions", "machine"):
        for key in sorted(first[section].keys() | second[section].keys()):
            before, after = first[section].get(key), second[section].get(key)
            if before != after:
                changed[key] = [before, after]
    for key in ("luthier", "spec", "base", "data"):
        if first[key] != second[key]:
            changed[key] = [first[key], second[key]]
    return Reproduction(not differing, differing, changed)


@contextmanager
def _place(out: Path | None) -> Iterator[Path]:
    if out is not None:
        yield out
        return
    place = Path(tempfile.mkdtemp(prefix="luthier-again-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
