"""Bytes by digest: streamed, there once, gone with the last who names them, nothing left by those who died."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from sqlalchemy import select, update

from luthier.core.errors import DataError, SpecError, StorageError
from luthier.store import blobs as door
from luthier.store import claims, files, incoming
from luthier.store.audit import Deputy
from luthier.store.blobs import PIECE, Blobs, Stored
from luthier.store.database import Database
from luthier.store.tables.files import BlobClaim, File

MOST = 1 << 30


def everything(blobs: Blobs) -> list[str]:
    """Digests of all blobs, and names of all files being received."""
    there = [str(entry["path"]).rsplit("/", 1)[-1] for page in obstore.list(blobs.store, "sha256") for entry in page]
    return sorted(there) + sorted(file.name for file in blobs.incoming.iterdir())


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def keep(blobs: Blobs, who: Deputy, content: bytes) -> File:
    stored = blobs.put([content], most=MOST)
    with blobs.database.write() as session:
        return files.add(session, who, stored, filename="x", purpose="batch")


def let_claims_run_out(database: Database) -> None:
    with database.write() as session:
        session.execute(update(BlobClaim).values(until=0.0))


def test_what_is_put_is_read_back(blobs: Blobs) -> None:
    content = os.urandom(3 * PIECE + 17)
    stored = blobs.put((content[at : at + 70_001] for at in range(0, len(content), 70_001)), most=len(content))
    assert (stored.digest, stored.bytes) == (digest(content), len(content))
    assert b"".join(blobs.read(stored.digest)) == content
    assert max(map(len, blobs.read(stored.digest))) == PIECE
    assert b"".join(blobs.read(stored.digest, PIECE + 5)) == content[PIECE + 5 :]
    assert list(blobs.read(stored.digest, len(content))) == []
    with blobs.path(stored.digest) as path:
        assert path.read_bytes() == content
    assert everything(blobs) == [stored.digest]


def test_nothing_is_something_too(blobs: Blobs) -> None:
    stored = blobs.put([], most=0)
    assert (stored.digest, stored.bytes) == (digest(b""), 0)
    assert list(blobs.read(stored.digest)) == [] and blobs.size(stored.digest) == 0


def test_more_than_was_allowed_is_refused_at_once_and_leaves_nothing(blobs: Blobs) -> None:
    taken = 0

    def endless() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1000
            yield b"x" * 1000

    with pytest.raises(DataError, match="More than 10,000 bytes were sent") as raised:
        blobs.put(endless(), most=10_000)
    assert raised.value.code == "too_many_bytes" and taken == 11_000
    assert everything(blobs) == []


def test_a_sender_that_breaks_off_leaves_nothing_and_is_not_the_disk_s_fault(blobs: Blobs) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        blobs.put(broken(), most=MOST)
    assert everything(blobs) == []


@pytest.mark.parametrize("name", ["0" * 64, "../../etc/passwd", "", "A" * 64, "0" * 63 + "/"])
def test_what_is_not_there(blobs: Blobs, name: str) -> None:
    with pytest.raises(StorageError) as raised:
        next(blobs.read(name))
    assert raised.value.code == "blob_lost"
    with pytest.raises(StorageError), blobs.path(name):
        pass


def test_equal_bytes_lie_there_once_and_go_with_the_last(blobs: Blobs, who: Deputy) -> None:
    first, second = keep(blobs, who, b"same"), keep(blobs, who, b"same")
    other = keep(blobs, who, b"other")
    for file, left in ((first, {b"same", b"other"}), (second, {b"other"}), (other, set())):
        with blobs.database.write() as session:
            files.delete(session, who, blobs, file.id)
        assert everything(blobs) == sorted(map(digest, left))
    with blobs.database.read() as session:
        assert list(session.scalars(select(BlobClaim))) == []


def test_a_deletion_that_is_rolled_back_keeps_the_bytes(blobs: Blobs, who: Deputy) -> None:
    file = keep(blobs, who, b"kept")

    def change_of_mind() -> None:
        with blobs.database.write() as session:
            files.delete(session, who, blobs, file.id)
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        change_of_mind()
    assert b"".join(blobs.read(file.digest)) == b"kept"


def test_a_put_whose_row_is_not_written_yet_outlives_the_deletion_of_its_twin(blobs: Blobs, who: Deputy) -> None:
    file = keep(blobs, who, b"same")
    stored = blobs.put([b"same"], most=MOST)
    with blobs.database.write() as session:
        files.delete(session, who, blobs, file.id)
    assert blobs.sweep() == 0
    with blobs.database.write() as session:
        files.add(session, who, stored, filename="x", purpose="batch")
    assert b"".join(blobs.read(stored.digest)) == b"same"
    assert blobs.sweep() == 0 and everything(blobs) == [stored.digest]


def test_what_got_no_row_goes_when_its_time_is_up(blobs: Blobs, who: Deputy) -> None:
    stored = blobs.put([b"forgotten"], most=MOST)
    assert blobs.sweep() == 0
    let_claims_run_out(blobs.database)
    assert blobs.sweep() == 1 and everything(blobs) == []
    with pytest.raises(StorageError, match="received more than 6 hours ago") as raised, blobs.database.write() as session:
        files.add(session, who, stored, filename="x", purpose="batch")
    assert raised.value.code == "blob_lost"


def test_dropping_takes_the_bytes_unless_somebody_else_wants_them(blobs: Blobs, who: Deputy) -> None:
    keep(blobs, who, b"kept")
    for content in (b"kept", b"alone"):
        blobs.drop(blobs.put([content], most=MOST))
    assert everything(blobs) == [digest(b"kept")]


def test_nothing_goes_while_all_is_held(blobs: Blobs, who: Deputy) -> None:
    file = keep(blobs, who, b"held")
    with blobs.held():
        with blobs.database.write() as session:
            files.delete(session, who, blobs, file.id)
        assert blobs.sweep() == 0 and everything(blobs) == [file.digest]
    assert blobs.sweep() == 1 and everything(blobs) == []


def test_a_hold_whose_holder_died_ends(blobs: Blobs, who: Deputy) -> None:
    claims.claim(blobs.database, claims.ALL)
    let_claims_run_out(blobs.database)
    file = keep(blobs, who, b"x")
    with blobs.database.write() as session:
        files.delete(session, who, blobs, file.id)
    blobs.sweep()
    with blobs.database.read() as session:
        assert list(session.scalars(select(BlobClaim))) == []


def test_puts_and_deletions_of_the_same_bytes_at_once(blobs: Blobs, who: Deputy) -> None:
    """Eight threads keep and delete the same content; a row never names bytes that are not there."""
    wrong: list[str] = []

    def work() -> None:
        for _ in range(6):
            file = keep(blobs, who, b"contended")
            if b"".join(blobs.read(file.digest)) != b"contended":
                wrong.append(file.id)
            with blobs.database.write() as session:
                files.delete(session, who, blobs, file.id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    blobs.sweep()
    assert everything(blobs) == []


def test_a_removal_that_fails_is_made_up_for(
    blobs: Blobs, who: Deputy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = keep(blobs, who, b"x")

    def unreachable(self: Blobs, digest: str) -> None:
        raise StorageError("The bucket is away.")

    with monkeypatch.context() as broken:
        broken.setattr(Blobs, "_remove", unreachable)
        with blobs.database.write() as session:
            files.delete(session, who, blobs, file.id)
    assert "will be removed later: The bucket is away." in caplog.text
    assert everything(blobs) == [file.digest]
    assert blobs.sweep() == 1 and everything(blobs) == []


def test_files_of_the_living_are_not_swept(blobs: Blobs) -> None:
    def slow() -> Iterator[bytes]:
        yield b"a"
        for file in blobs.incoming.iterdir():
            os.utime(file, (0, 0))
        assert blobs.sweep() == 0
        yield b"b"

    assert blobs.put(slow(), most=MOST).digest == digest(b"ab")


DYING = """
    import sys, time
    from luthier.store.blobs import Blobs
    from luthier.store.database import Database

    blobs = Blobs.open(Database.connect(sys.argv[1]), sys.argv[2])

    def endless():
        while True:
            yield b"x" * 100_000
            print("more", flush=True)

    blobs.put(endless(), most=10**12)
"""


def test_a_process_killed_while_it_receives_leaves_nothing(database: Database, database_url: str, tmp_path: Path) -> None:
    blobs = Blobs.open(database, str(tmp_path / "blobs"))
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DYING), database_url, str(tmp_path / "blobs")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    for _ in range(3):
        assert child.stdout.readline() == "more\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    (left,) = blobs.incoming.iterdir()
    assert blobs.sweep() == 0, "too young to be sure"
    os.utime(left, (time.time() - incoming.NEWBORN - 1,) * 2)
    assert blobs.sweep() == 1 and everything(blobs) == []


FULL = """
    import resource, sys
    from luthier.core.errors import StorageError
    from luthier.store.blobs import Blobs
    from luthier.store.database import Database

    blobs = Blobs.open(Database.connect(sys.argv[1]), sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    try:
        blobs.put((b"x" * 100_000 for _ in range(20)), most=10**9)
    except StorageError as error:
        print(error.code, error.what)
"""


def test_a_full_disk_leaves_nothing(sqlite_template: Path, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{tmp_path / 'x.db'}"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), url, str(tmp_path / "blobs")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "storage Could not write: File too large.\n"
    assert everything(Blobs.open(Database.connect(url), str(tmp_path / "blobs"))) == []


def test_a_blob_cannot_be_written_to(database: Database, tmp_path: Path) -> None:
    blobs = Blobs.open(database, str(tmp_path / "blobs"))
    stored = blobs.put([b"x"], most=1)
    with blobs.path(stored.digest) as path:
        assert path.stat().st_mode & 0o777 == 0o444
        assert path == tmp_path / "blobs" / "sha256" / stored.digest[:2] / stored.digest


def test_where_blobs_can_lie(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    assert Blobs.open(database).folder == tmp_path / "home" / "blobs"
    monkeypatch.setenv("LUTHIER_BLOBS", str(tmp_path / "elsewhere"))
    assert Blobs.open(database).folder == tmp_path / "elsewhere"
    assert Blobs.open(database, f"file://{tmp_path}/third").folder == tmp_path / "third"
    assert Blobs.open(database, "s3://bucket/path").folder is None
    with pytest.raises(SpecError, match=r"Blobs cannot lie at ftp://\. Take a folder, s3://") as raised:
        Blobs.open(database, "ftp://user:secret@host/")
    assert raised.value.code == "blobs_url" and "secret" not in str(raised.value)


def test_a_bucket_that_cannot_be_reached(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    monkeypatch.setitem(door.RETRIES, "max_retries", 1)
    for name, value in {
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "x",
    }.items():
        monkeypatch.setenv(name, value)
    blobs = Blobs.open(database, "s3://bucket/path")
    with pytest.raises(StorageError, match="The blobs cannot be reached") as raised:
        blobs.put([b"x"], most=1)
    assert raised.value.code == "blobs_unreachable"
    assert list(blobs.incoming.iterdir()) == []


def test_a_stored_shows_itself() -> None:
    assert repr(Stored("d", 1, "claim_x")) == "Stored(digest='d', bytes=1, claim='claim_x')"
