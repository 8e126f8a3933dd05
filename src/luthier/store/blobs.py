"""The bytes of files, under their SHA-256: in a folder, or in S3, Google's or Azure's storage by URL. The one door to obstore.

    blobs = Blobs.open(database)
    stored = blobs.put(chunks, most=512 * 2**20)  # streamed, never in memory
    with database.write() as session:
        files.add(session, who, stored, ...)  # a row that names it; without one it goes again

Equal bytes lie there once, for as long as somebody wants them (store/claims.py). What arrives is written to a file of this machine first:
its name is known only at its end, and a bucket never sees half of it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from luthier.core.errors import DataError, LuthierError, SpecError, StorageError
from luthier.core.files import storing, sync_folder
from luthier.core.home import home
from luthier.store import claims, incoming
from luthier.store.database import Database

if TYPE_CHECKING:
    from obstore.store import RetryConfig

log = logging.getLogger(__name__)

PIECE = 1 << 20
"""Bytes read at once: what one reader holds in memory."""

PART = 8 << 20
PARTS = 4
"""Bytes of one part on the way to a bucket, and how many of them are in memory. S3 takes 10,000 parts: files up to 80 GB."""

RETRIES: RetryConfig = {"max_retries": 6, "retry_timeout": timedelta(seconds=60)}
"""How often a bucket is asked again, with growing pauses from a tenth of a second, and for how long at most."""

HOLD = 1800.0
"""Seconds after which a backup that says nothing is taken for dead. One large file from a slow bucket must fit in."""

DIGEST = re.compile(r"[0-9a-f]{64}")
SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")


@dataclass(frozen=True, slots=True)
class Stored:
    """What was put: SHA-256 in hexadecimal, size in bytes, and the claim that keeps it until a row names it."""

    digest: str
    bytes: int
    claim: str


class Blobs:
    """Bytes by digest, safe for many threads and processes at once.

    Args:
        folder: where they lie, when that is a folder of this machine.
        incoming: folder of this machine for what is being received; on the disk of `folder`.
    """

    def __init__(self, database: Database, store: ObjectStore, *, folder: Path | None, incoming: Path) -> None:
        self.database, self.store, self.folder, self.incoming = database, store, folder, incoming
        with storing(incoming):
            incoming.mkdir(mode=0o700, parents=True, exist_ok=True)

    @classmethod
    def open(cls, database: Database, url: str = "") -> Blobs:
        """The blobs at `url`: a folder, or ``s3://BUCKET/PATH``, ``gs://...``, ``az://...`` with credentials from the usual variables.

        Args:
            url: empty for ``LUTHIER_BLOBS``, else ``blobs`` under ``LUTHIER_HOME``.

        Raises:
            SpecError: nothing of that kind is known. StorageError: the folder cannot be made, or the address makes no sense.
        """
        url = url or os.environ.get("LUTHIER_BLOBS") or str(home() / "blobs")
        if "://" not in url or url.startswith("file://"):
            folder = Path(url.removeprefix("file://")).expanduser().absolute()
            with storing(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(database, LocalStore(folder), folder=folder, incoming=folder / "incoming")
        if url.partition("://")[0] not in SCHEMES:
            raise SpecError(
                f"Blobs cannot lie at {url.partition('://')[0]}://.",
                where="--blobs or LUTHIER_BLOBS",
                remedy="Take a folder, s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH.",
                code="blobs_url",
            )
        with _telling(url):
            return cls(database, from_url(url, retry_config=RETRIES), folder=None, incoming=home() / "incoming")

    def put(self, chunks: Iterable[bytes], *, most: int) -> Stored:
        """Store what `chunks` yields, of which one is in memory at a time. Without a row that names it, it goes after `claims.CLAIM`.

        Raises:
            DataError: more than `most` bytes came (``too_many_bytes``). StorageError: it could not be written.
            Whatever `chunks` raises; in each case nothing is left behind.
        """
        with incoming.receiving(self.incoming) as (sink, file):
            digest, size = hashlib.sha256(), 0
            for chunk in chunks:
                size += len(chunk)
                if size > most:
                    raise _too_many(most)
                digest.update(chunk)
                with storing(file):
                    sink.write(chunk)
            with storing(file):
                sink.flush()
                os.fchmod(sink.fileno(), 0o444)  # a blob never changes
                os.fsync(sink.fileno())
            return self._kept(file, digest.hexdigest(), size)

    def size(self, digest: str) -> int:
        """Bytes of a blob.

        Raises:
            StorageError: there is none (``blob_lost``), or it cannot be reached.
        """
        with _telling(digest):
            return int(obstore.head(self.store, _key(digest))["size"])

    def read(self, digest: str, start: int = 0) -> Iterator[bytes]:
        """The bytes of a blob from `start` on, piece by piece. A piece is fetched when it is asked for, so a slow reader holds nothing.

        Raises:
            StorageError: there is no such blob (``blob_lost``), or it cannot be reached.
        """
        end = self.size(digest)
        while start < end:
            with _telling(digest):
                piece = obstore.get_range(self.store, _key(digest), start=start, end=min(end, start + PIECE)).to_bytes()
            start += len(piece)
            yield piece

    @contextmanager
    def path(self, digest: str) -> Iterator[Path]:
        """A file of this machine with the bytes of a blob, to be read only: the blob itself, or a copy that goes at the end."""
        if self.folder is not None:
            self.size(digest)
            yield self.folder / _key(digest)
            return
        with incoming.receiving(self.incoming) as (sink, file):
            for piece in self.read(digest):
                with storing(file):
                    sink.write(piece)
            with storing(file):
                sink.flush()
            yield file

    def drop(self, stored: Stored) -> None:
        """Give up what was put and will get no row."""
        with self.database.write() as session:
            claims.give_up(session, stored.digest, name=stored.claim)
        self.release(stored.digest)

    def release(self, digest: str) -> bool:
        """Remove a blob unless a row or a claim wants it; returns whether it went.

        A put of the same bytes waits meanwhile and then stores them anew.
        """
        with self.database.write() as session:
            claims.alone_with(session, digest)
            named, claimed = claims.wanted(session, digest)
            if claimed:
                return False  # `sweep` looks again when that claim is over
            if not named:
                self._remove(digest)
            claims.settle(session, digest)
        return not named

    def let_go(self, digests: Iterable[str]) -> None:
        """`release` after a commit: what cannot be removed now is left to `sweep`, for the deed itself is done."""
        for digest in digests:
            try:
                self.release(digest)
            except StorageError as error:
                log.warning("%s will be removed later: %s", digest, error)

    def sweep(self) -> int:
        """Remove what nobody will name any more: blobs whose claims are over, files whose writer died. Returns how many went."""
        went = sum(self.release(digest) for digest in claims.overdue(self.database))
        return went + incoming.sweep(self.incoming)

    @contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """Let no blob go meanwhile, whoever stops naming it; `sweep` makes up for it.

        Yields:
            what to call now and then, at least every `HOLD` seconds: it says that the holder still lives.
        """
        name = claims.claim(self.database, claims.ALL, seconds=HOLD)
        said = time.monotonic()

        def alive() -> None:
            nonlocal said
            if time.monotonic() - said > HOLD / 10:
                said = time.monotonic()
                if not claims.renew(self.database, name, seconds=HOLD):
                    raise StorageError("Blobs were held for longer than was said.", remedy="Begin again.", code="blob_lost")

        try:
            yield alive
        finally:
            with self.database.write() as session:
                claims.end(session, name)

    def _kept(self, file: Path, digest: str, size: int) -> Stored:
        """Claim a digest, then give the received file that name: in this order, so that nobody removes it in between."""
        stored = Stored(digest, size, claims.claim(self.database, digest))
        try:
            self._move(file, digest)
        except BaseException:
            self.drop(stored)
            raise
        return stored

    def _move(self, file: Path, digest: str) -> None:
        if self.folder is None:
            with _telling(digest, missing="there is no such bucket"):
                obstore.put(self.store, _key(digest), file, chunk_size=PART, max_concurrency=PARTS)
            return
        target = self.folder / _key(digest)
        with storing(target):
            for folder in (target.parent.parent, target.parent):
                if not folder.exists():
                    folder.mkdir(exist_ok=True)
                    sync_folder(folder.parent)
            os.replace(file, target)  # over an equal one, which heals it if it was damaged
            sync_folder(target.parent)

    def _remove(self, digest: str) -> None:
        with _telling(digest), suppress(FileNotFoundError):
            obstore.delete(self.store, _key(digest))


def _key(digest: str) -> str:
    """Where a blob lies. Only a digest gets there, never a word of a user."""
    if not DIGEST.fullmatch(digest):
        raise StorageError(
            "This is no SHA-256, so there are no such bytes.", where=repr(digest), remedy="Please report it.", code="blob_lost"
        )
    return f"sha256/{digest[:2]}/{digest}"


def _too_many(most: int) -> DataError:
    return DataError(f"More than {most:,} bytes were sent.", remedy="Split the file, or make it smaller.", code="too_many_bytes")


@contextmanager
def _telling(place: str, *, missing: str = "") -> Iterator[None]:
    """Turn what obstore complains of into a StorageError. `missing`: what it means that something is not found, if not the blob."""
    try:
        yield
    except LuthierError:  # some are OSErrors too
        raise
    except (BaseError, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and not missing:
            remedy = "Send the file again, or restore a backup."
            raise StorageError("These bytes are not there any more.", where=place, remedy=remedy, code="blob_lost") from error
        raise StorageError(
            f"The blobs cannot be reached: {missing or str(error).strip().splitlines()[0]}.",
            where=place,
            remedy="See to the address (--blobs or LUTHIER_BLOBS), its credentials, the network, and whether the disk is full.",
            code="blobs_unreachable",
        ) from error
