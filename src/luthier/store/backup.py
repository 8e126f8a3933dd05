"""A consistent copy of all there is: rows, blobs, folders of runs. The service may go on meanwhile.

The rows are those of one moment. No blob they name is removed before it is copied (`Blobs.held`). A run that is being worked on is
copied as it is: a checkpoint that goes while it is copied is left out, so the run resumes from another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from luthier import __version__
from luthier.core.errors import StorageError
from luthier.store import archive, rows
from luthier.store.archive import MANIFEST, Entry, Manifest, Sink
from luthier.store.blobs import Blobs

LAST = ("steps.jsonl", "state.json")
"""Files of a run that tell how far it is: copied after its checkpoints, so that they are never behind them."""


def backup(blobs: Blobs, runs: Path, target: Path) -> Manifest:
    """Copy everything to `target`: a tar file where it is called so, else a folder.

    Args:
        blobs: with its database. runs: the folder in which the runs' folders lie.

    Raises:
        SpecError: there is something at `target` already. StorageError: it could not be written, or a blob is lost or damaged; nothing
            stays behind.
    """
    with blobs.held() as alive, archive.new(target) as sink:
        with archive.beside(target) as folder:
            step, counts, digests = rows.write(blobs.database, folder)
            files = [_copied(sink, f"database/{path.name}", path) for path in sorted(folder.iterdir())]
        files += _blobs(sink, blobs, digests, alive)
        files += _runs(sink, runs, alive)
        manifest = Manifest(
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            luthier=__version__,
            step=step,
            database="sqlite" if blobs.database.is_sqlite else "postgresql",
            rows=counts,
            files=files,
        )
        archive.add_bytes(sink, MANIFEST, manifest.to_bytes())
    return manifest


def _copied(sink: Sink, name: str, path: Path) -> Entry:
    with open(path, "rb") as source:
        return sink.add(name, source, path.stat().st_size)


def _blobs(sink: Sink, blobs: Blobs, digests: list[str], alive: Callable[[], None]) -> Iterator[Entry]:
    for digest in digests:
        with blobs.path(digest) as path:
            entry = _copied(sink, f"blobs/sha256/{digest[:2]}/{digest}", path)
        if entry.sha256 != digest:
            raise StorageError(
                "The bytes of a file are not those that were put: the disk has damaged them.",
                where=digest,
                remedy="Delete the files with these bytes, or put the blob back from an older backup; then try again.",
                code="blob_damaged",
            )
        alive()
        yield entry


def _runs(sink: Sink, runs: Path, alive: Callable[[], None]) -> Iterator[Entry]:
    for run in sorted(runs.iterdir()) if runs.is_dir() else []:
        if run.is_dir() and not run.is_symlink() and not run.name.startswith("."):
            copied = []
            for path in _files(run):
                try:
                    copied.append((path, _copied(sink, f"runs/{path.relative_to(runs)}", path)))
                except FileNotFoundError:
                    continue  # an old checkpoint, removed meanwhile
                alive()
            yield from (entry for path, entry in copied if path.parent.exists())


def _files(run: Path) -> list[Path]:
    """What is copied of a run, in order; nothing that is only half-written."""
    found = [
        path
        for path in run.rglob("*")
        if path.is_file() and not path.is_symlink() and not any(part.startswith(".") for part in path.relative_to(run).parts)
    ]
    return sorted(found, key=lambda path: (path.name in LAST and path.parent == run, path))
