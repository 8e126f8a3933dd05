"""A backup put back: verified as a whole before anything is touched, and the rows last, so that they never name what is not there yet."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from glob import escape
from pathlib import Path
from shutil import rmtree

from luthier.core.errors import SpecError, StorageError
from luthier.core.files import new_folder, sha256
from luthier.store import archive, rows, upgrade
from luthier.store.archive import Entry, Manifest, Source
from luthier.store.blobs import Blobs

Runs = dict[str, list[Entry]]
"""Files by the name of their run."""


def restore(place: Path, blobs: Blobs, runs: Path) -> Manifest:
    """Put the backup at `place` into a database without rows, its blobs, and a folder of runs.

    Killed half-way, it leaves the database empty and can be begun again.

    Args:
        blobs: where blobs go, with the database for the rows; that may be of another kind than the one they came from.

    Raises:
        NotFound: there is no backup. StorageError: it is damaged or newer; nothing was touched.
        SpecError: the database has rows, or a run of the same name and other content is there; nothing was touched.
    """
    with archive.existing(place) as source:
        source.verify()
        by_run = _by_run(source.manifest)
        _check_place(source.manifest, blobs, runs, by_run)
        if not upgrade.revision(blobs.database):
            upgrade.upgrade(blobs.database)  # the blobs' claims want their table
        for entry in source.manifest.files:
            if entry.name.startswith("blobs/"):
                blobs.put(source.pieces(entry), most=entry.bytes)
        for name, entries in by_run.items():
            if not (runs / name).exists():
                _put_run(source, runs, name, entries)
        _put_rows(source, blobs)
        return source.manifest


def _by_run(manifest: Manifest) -> Runs:
    found: Runs = defaultdict(list)
    for entry in manifest.files:
        if entry.name.startswith("runs/"):
            found[entry.name.split("/")[1]].append(entry)
    return found


def _check_place(manifest: Manifest, blobs: Blobs, runs: Path, by_run: Runs) -> None:
    if manifest.step not in upgrade.known_steps():
        raise StorageError(
            f"The backup is of a newer Luthier ({manifest.luthier}): its tables are at step {manifest.step}.",
            remedy="Restore it with that version or a newer one.",
            code="backup_newer",
        )
    if not rows.is_empty(blobs.database):
        raise SpecError(
            "The database has rows, and a backup is put into an empty one only.",
            where=blobs.database.place,
            remedy="Stop the service, move the database away (or name another one with --database), and try again.",
            code="restore_target",
        )
    for name, entries in by_run.items():
        if (runs / name).exists() and not _equal(runs, entries):
            raise SpecError(
                f"There is a run {name} already, and it is not as the backup has it.",
                where=str(runs),
                remedy="Move it away, and try again.",
                code="restore_target",
            )


def _equal(runs: Path, entries: list[Entry]) -> bool:
    """Whether all of it is there already: this restore was begun before and killed."""
    there = [(runs / Path(entry.name).relative_to("runs"), entry) for entry in entries]
    return all(path.is_file() and path.stat().st_size == entry.bytes and sha256(path) == entry.sha256 for path, entry in there)


def _put_run(source: Source, runs: Path, name: str, entries: list[Entry]) -> None:
    for left in runs.glob(f".{escape(name)}.*.part"):
        rmtree(left)  # of a restore that was killed
    with new_folder(runs / name) as folder:
        for entry in entries:
            path = folder / Path(entry.name).relative_to(f"runs/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as sink:
                for piece in source.pieces(entry):
                    sink.write(piece)


def _put_rows(source: Source, blobs: Blobs) -> None:
    with ExitStack() as stack:
        names = [entry.name for entry in source.manifest.files if entry.name.startswith("database/")]
        tables = {Path(name).stem: stack.enter_context(source.open(name)) for name in names}
        rows.read(blobs.database, source.manifest.step, tables, expected=source.manifest.rows)
