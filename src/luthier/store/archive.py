"""A backup on disk: a folder or a tar file, with a manifest that says what must be in it.

    manifest.json           format, when, step of the tables, rows of each, and for each file its size and SHA-256
    database/TABLE.jsonl    rows
    blobs/sha256/ab/ab...   bytes of files
    runs/RUN/...            folders of runs

It holds hashes of keys and secrets of webhooks, so only its owner may read it. It gets its name when it is whole and on the disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import psutil

from luthier.core.errors import NotFound, SpecError, StorageError
from luthier.core.files import storing, sync_folder

FORMAT = 1
MANIFEST = "manifest.json"
PIECE = 1 << 20
PART = ".luthier-backup.{}.part"
"""Name of a backup that is being written, by the number of its process."""

SAFE = re.compile(r"(database/[a-z_]+\.jsonl|blobs/sha256/[0-9a-f]{2}/[0-9a-f]{64}|runs(/(?!\.\.?(/|$))[^/\x00]+){2,})")
"""Names a backup may have files by: nothing that leads out of the place they are restored to."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a backup."""

    name: str
    bytes: int
    sha256: str

    @property
    def is_safe(self) -> bool:
        """Whether it leads to its place and nowhere else; a blob's place is its SHA-256."""
        return bool(SAFE.fullmatch(self.name)) and (not self.name.startswith("blobs/") or self.name.endswith(f"/{self.sha256}"))


@dataclass(slots=True)
class Manifest:
    """What is in a backup.

    Attributes:
        luthier: version that wrote it. step: of the tables. rows: by table. database: what kind it came from, for people.
    """

    created: str
    luthier: str
    step: str
    database: str
    rows: dict[str, int]
    files: list[Entry] = field(default_factory=list)
    format: int = FORMAT

    def to_bytes(self) -> bytes:
        return (json.dumps(asdict(self), indent=1) + "\n").encode()

    @classmethod
    def of(cls, content: bytes, where: str) -> Manifest:
        """Read one, believing nothing.

        Raises:
            StorageError: it is damaged (``backup_damaged``), or of a newer version (``backup_newer``).
        """
        try:
            fields: dict[str, Any] = json.loads(content)
            if fields["format"] > FORMAT:
                raise StorageError(
                    f"The backup has format {fields['format']}, and this version reads up to {FORMAT}.",
                    where=where,
                    remedy=f"Use Luthier {fields['luthier']} or newer.",
                    code="backup_newer",
                )
            manifest = cls(**fields | {"files": [Entry(**entry) for entry in fields["files"]]})
            if odd := next((entry for entry in manifest.files if not entry.is_safe), None):
                raise ValueError(f"a file named {odd.name!r}")
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(where, f"its manifest cannot be read: {error!r}") from error
        return manifest


class Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, source: BinaryIO) -> None:
        self.source, self.digest, self.size = source, hashlib.sha256(), 0

    def read(self, size: int = -1) -> bytes:
        piece = self.source.read(size)
        self.digest.update(piece)
        self.size += len(piece)
        return piece


class Sink(Protocol):
    """Where a backup goes."""

    def add(self, name: str, source: BinaryIO, size: int) -> Entry:
        """Take `size` bytes of `source` under `name`."""


@contextmanager
def new(target: Path) -> Iterator[Sink]:
    """A backup at `target`, which appears when the block ends without an exception: a tar file where it is called so, else a folder.

    Raises:
        SpecError: there is something already (``out_exists``). StorageError: it could not be written; nothing stays behind.
    """
    if target.exists():
        raise SpecError("There is something already.", where=str(target), remedy="Choose a name that is new.", code="out_exists")
    part = target.parent / PART.format(os.getpid())
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        try:
            with _tar(part) if target.suffix == ".tar" else _folder(part) as sink:
                yield sink
            os.replace(part, target)
            sync_folder(target.parent)
        finally:
            _remove(part)


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A folder for what is on its way into a backup at `target`, gone at the end."""
    folder = target.parent / PART.format(f"{os.getpid()}.rows")
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        _remove(folder)


class Source:
    """A backup to read from: a folder or a tar file."""

    def __init__(self, place: Path, archive: tarfile.TarFile | None) -> None:
        self.place, self.archive = place, archive
        with self.open(MANIFEST) as source:
            self.manifest = Manifest.of(source.read(), str(place))

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """One of its files.

        Raises:
            StorageError: it is not there (``backup_damaged``).
        """
        try:
            found = (self.place / name).open("rb") if self.archive is None else self.archive.extractfile(name)
        except (KeyError, OSError, tarfile.TarError) as error:
            raise damaged(str(self.place), f"{name} is missing") from error
        if found is None:
            raise damaged(str(self.place), f"{name} is no file")
        with found:
            yield found  # type: ignore[misc]

    def pieces(self, entry: Entry) -> Iterator[bytes]:
        """The bytes of one of its files.

        Raises:
            StorageError: at their end, if they are not those that were saved (``backup_damaged``).
        """
        with self.open(entry.name) as source:
            read = Hashing(source)
            while piece := read.read(PIECE):
                yield piece
        if (read.size, read.digest.hexdigest()) != (entry.bytes, entry.sha256):
            raise damaged(str(self.place), f"{entry.name} has other bytes than were saved")

    def verify(self) -> None:
        """Read every file once.

        Raises:
            StorageError: one is missing or differs (``backup_damaged``).
        """
        for entry in self.manifest.files:
            for _ in self.pieces(entry):
                pass


@contextmanager
def existing(place: Path) -> Iterator[Source]:
    """The backup at `place`.

    Raises:
        NotFound: there is none (``no_backup``). StorageError: it is damaged.
    """
    if not (place.is_file() or (place / MANIFEST).is_file()):
        remedy = "Name the folder or the .tar file that `luthier backup` made."
        raise NotFound("There is no backup here.", where=str(place), remedy=remedy, code="no_backup")
    with ExitStack() as stack:
        try:
            archive = stack.enter_context(tarfile.open(place, "r:")) if place.is_file() else None
        except tarfile.TarError as error:
            raise damaged(str(place), f"it is no tar file: {error}") from error
        yield Source(place, archive)


def damaged(where: str, why: str) -> StorageError:
    """The error for a backup that is not what it was."""
    return StorageError(
        f"The backup is damaged: {why}.", where=where, remedy="Take another one; nothing was changed.", code="backup_damaged"
    )


class _Folder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, source: BinaryIO, size: int) -> Entry:
        path, read = self.folder / name, Hashing(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as sink:
            while read.size < size and (piece := read.read(min(PIECE, size - read.size))):
                sink.write(piece)
            sink.flush()
            os.fsync(sink.fileno())
        return _entry(name, read, size)


class _Tar:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self.archive = archive

    def add(self, name: str, source: BinaryIO, size: int) -> Entry:
        member, read = tarfile.TarInfo(name), Hashing(source)
        member.size, member.mode = size, 0o600
        self.archive.addfile(member, read)  # it only ever reads
        return _entry(name, read, size)


@contextmanager
def _folder(part: Path) -> Iterator[Sink]:
    part.mkdir(mode=0o700)
    yield _Folder(part)
    for folder in [part, *(path for path in part.rglob("*") if path.is_dir())]:
        sync_folder(folder)


@contextmanager
def _tar(part: Path) -> Iterator[Sink]:
    with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            yield _Tar(archive)
        file.flush()
        os.fsync(file.fileno())


def _entry(name: str, read: Hashing, size: int) -> Entry:
    if read.size != size:
        raise OSError(f"{name} became shorter while it was copied")
    return Entry(name, size, read.digest.hexdigest())


def add_bytes(sink: Sink, name: str, content: bytes) -> Entry:
    """`Sink.add` for what is in memory."""
    return sink.add(name, io.BytesIO(content), len(content))


def _sweep(folder: Path) -> None:
    """Remove what killed backups left in `folder`."""
    for left in folder.glob(PART.format("*")):
        number = left.name.split(".")[2]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            _remove(left)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink(missing_ok=True)
