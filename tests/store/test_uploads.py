"""Uploads: parts in the order given, every byte checked, nothing half-put-together, everything gone when it is over."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import obstore
import pytest
from sqlalchemy import func, select, update

from luthier.core.errors import DataError, NotFound, SpecError
from luthier.store import files, incoming, uploads
from luthier.store.audit import Deputy
from luthier.store.blobs import Blobs
from luthier.store.sweep import sweep
from luthier.store.tables.files import BlobClaim, File, Upload, UploadPart

PARTS = [b"first, ", b"second, ", b"third"]
WHOLE = b"".join(PARTS)


def begin(blobs: Blobs, who: Deputy, size: int = len(WHOLE), **how: Any) -> Upload:
    with blobs.database.write() as session:
        described = {"filename": "x.jsonl", "purpose": "fine-tune", "mime_type": "application/jsonl"} | how
        return uploads.create(session, who, bytes=size, **described)


def send(blobs: Blobs, who: Deputy, upload: Upload, content: bytes) -> str:
    stored = blobs.put([content], most=1 << 20)
    try:
        with blobs.database.write() as session:
            return uploads.add_part(session, who, upload.id, stored).id
    except BaseException:
        blobs.drop(stored)
        raise


def blobs_there(blobs: Blobs) -> int:
    return sum(len(page) for page in obstore.list(blobs.store, "sha256")) + len(list(blobs.incoming.iterdir()))


def parts_there(blobs: Blobs) -> int:
    with blobs.database.read() as session:
        return session.scalar(select(func.count()).select_from(UploadPart)) or 0


def test_parts_are_put_together_in_the_order_given(blobs: Blobs, who: Deputy) -> None:
    upload = begin(blobs, who, file_expires={"anchor": "created_at", "seconds": 7200})
    third, first, second = (send(blobs, who, upload, PARTS[number]) for number in (2, 0, 1))
    done, file = uploads.complete(blobs.database, blobs, who, upload.id, [first, second, third], md5=hashlib.md5(WHOLE).hexdigest().upper())
    assert b"".join(blobs.read(file.digest)) == WHOLE
    assert (done.status, done.file_id, file.filename, file.purpose, file.bytes) == (
        "completed",
        file.id,
        "x.jsonl",
        "fine-tune",
        len(WHOLE),
    )
    assert file.expires_at == pytest.approx(file.created_at + 7200)
    assert parts_there(blobs) == 0 and blobs_there(blobs) == 1


def test_one_part_is_the_file_itself(blobs: Blobs, who: Deputy) -> None:
    upload = begin(blobs, who)
    _, file = uploads.complete(blobs.database, blobs, who, upload.id, [send(blobs, who, upload, WHOLE)])
    assert b"".join(blobs.read(file.digest)) == WHOLE and blobs_there(blobs) == 1


def test_equal_parts_are_counted_each(blobs: Blobs, who: Deputy) -> None:
    upload = begin(blobs, who, size=8)
    same = [send(blobs, who, upload, b"same") for _ in range(2)]
    _, file = uploads.complete(blobs.database, blobs, who, upload.id, same)
    assert b"".join(blobs.read(file.digest)) == b"samesame"


def test_a_wrong_order_is_known_by_its_md5_and_may_be_tried_again(blobs: Blobs, who: Deputy) -> None:
    upload = begin(blobs, who)
    parts = [send(blobs, who, upload, content) for content in PARTS]
    with pytest.raises(DataError, match=r"The MD5 of the 20 bytes is \w+, not") as raised:
        uploads.complete(blobs.database, blobs, who, upload.id, parts[::-1], md5=hashlib.md5(WHOLE).hexdigest())
    assert raised.value.code == "upload_md5" and blobs_there(blobs) == 3
    _, file = uploads.complete(blobs.database, blobs, who, upload.id, parts, md5=hashlib.md5(WHOLE).hexdigest())
    assert b"".join(blobs.read(file.digest)) == WHOLE


def test_missing_bytes_are_told(blobs: Blobs, who: Deputy) -> None:
    upload = begin(blobs, who)
    parts = [send(blobs, who, upload, content) for content in PARTS[:2]]
    with pytest.raises(DataError, match="20 bytes were announced, and these parts have 15") as raised:
        uploads.complete(blobs.database, blobs, who, upload.id, parts)
    assert raised.value.code == "upload_bytes"
    with pytest.raises(DataError, match="20 bytes were announced, and these parts have 21"):
        send(blobs, who, upload, b"sixsix")
    assert parts_there(blobs) == 2 and blobs_there(blobs) == 2


def test_parts_that_are_not_its_own(blobs: Blobs, who: Deputy, stranger: Deputy) -> None:
    upload, other = begin(blobs, who), begin(blobs, stranger)
    part = send(blobs, who, upload, WHOLE)
    foreign = send(blobs, stranger, other, WHOLE)
    with pytest.raises(SpecError, match="A part is named twice"):
        uploads.complete(blobs.database, blobs, who, upload.id, [part, part])
    for wrong in (foreign, "part_nothing"):
        with pytest.raises(NotFound, match=f"The upload has no part '{wrong}'") as raised:
            uploads.complete(blobs.database, blobs, who, upload.id, [wrong])
        assert raised.value.code == "unknown_part"


def test_another_project_s_upload_is_not_there(blobs: Blobs, who: Deputy, stranger: Deputy) -> None:
    upload = begin(blobs, who)
    with pytest.raises(NotFound, match="There is no upload") as raised:
        send(blobs, stranger, upload, b"x")
    assert raised.value.code == "unknown_upload"
    with pytest.raises(NotFound):
        uploads.complete(blobs.database, blobs, stranger, upload.id, [])
    with pytest.raises(NotFound), blobs.database.write() as session:
        uploads.cancel(session, stranger, blobs, upload.id)


def test_cancelled_is_cancelled(blobs: Blobs, who: Deputy) -> None:
    upload = begin(blobs, who)
    part = send(blobs, who, upload, WHOLE)
    with blobs.database.write() as session:
        assert uploads.cancel(session, who, blobs, upload.id).status == "cancelled"
    assert blobs_there(blobs) == 0 and parts_there(blobs) == 0
    with pytest.raises(DataError, match="The upload is cancelled") as raised:
        send(blobs, who, upload, b"x")
    assert raised.value.code == "upload_over"
    with pytest.raises(DataError, match="The upload is cancelled"):
        uploads.complete(blobs.database, blobs, who, upload.id, [part])


def test_an_upload_expires_and_takes_its_parts_along(blobs: Blobs, who: Deputy) -> None:
    upload = begin(blobs, who)
    send(blobs, who, upload, b"x")
    with blobs.database.write() as session:
        session.execute(update(Upload).values(expires_at=time.time() - 1))
    with pytest.raises(DataError, match="The upload is expired"):
        send(blobs, who, upload, b"x")
    assert sweep(blobs)["uploads"] == 1
    assert blobs_there(blobs) == 0 and parts_there(blobs) == 0
    with blobs.database.read() as session:
        assert uploads.get(session, str(who.project_id), upload.id).status == "expired"


@pytest.mark.parametrize(("size", "message"), [(0, "1 to 8,589,934,592 bytes, not 0"), (8 * 2**30 + 1, "not 8,589,934,593")])
def test_the_size_of_an_upload(blobs: Blobs, who: Deputy, size: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        begin(blobs, who, size)


def test_of_many_who_complete_it_one_does(blobs: Blobs, who: Deputy) -> None:
    upload = begin(blobs, who)
    parts = [send(blobs, who, upload, content) for content in PARTS]
    outcomes: list[str] = []

    def complete() -> None:
        try:
            outcomes.append(uploads.complete(blobs.database, blobs, who, upload.id, parts)[0].status)
        except DataError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=complete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["completed", *["upload_over"] * 3]
    blobs.sweep()
    assert blobs_there(blobs) == 1
    with blobs.database.read() as session:
        (file,) = session.scalars(select(File))
    assert b"".join(blobs.read(file.digest)) == WHOLE


COMPLETING = """
    import os, signal, sys
    from luthier.store import uploads
    from luthier.store.audit import Deputy
    from luthier.store.blobs import Blobs
    from luthier.store.database import Database

    url, folder, project = sys.argv[1:]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            database = Database.connect(url)
            upload, *parts = line.split()
            uploads.complete(database, Blobs.open(database, folder), Deputy("key_ours", None, project), upload, parts)
            os._exit(0)
        print(child, flush=True)
"""


def test_a_process_killed_while_it_completes_leaves_the_upload_or_the_file(
    database: Any, database_url: str, who: Deputy, tmp_path: Path
) -> None:
    """Killed at random moments; afterwards there is the open upload with all its parts, or the whole file, and nothing else."""
    blobs = Blobs.open(database, str(tmp_path / "blobs"))
    contents = [os.urandom(1 << 18) for _ in range(3)]
    draw, outcomes = random.Random(4), set()
    command = [sys.executable, "-c", textwrap.dedent(COMPLETING), database_url, str(tmp_path / "blobs"), str(who.project_id)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forker:
        assert forker.stdin is not None and forker.stdout is not None
        for pause in (None, 0.0, *(draw.uniform(0, 0.1) for _ in range(5))):
            upload = begin(blobs, who, sum(map(len, contents)))
            parts = [send(blobs, who, upload, content) for content in contents]
            print(upload.id, *parts, file=forker.stdin, flush=True)
            child = int(forker.stdout.readline())
            if pause is not None:  # the first may end
                time.sleep(pause)
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            _until_gone(child)
            outcomes.add(_settled(blobs, who, upload, contents))
    assert outcomes == {"pending", "completed"}


def _until_gone(child: int) -> None:
    with suppress(ProcessLookupError):
        while True:
            os.kill(child, 0)
            time.sleep(0.001)


def _settled(blobs: Blobs, who: Deputy, upload: Upload, contents: list[bytes]) -> str:
    """What the upload is after a kill; then all is cleared away, and nothing may be left."""
    with blobs.database.read() as session:
        status = uploads.get(session, str(who.project_id), upload.id).status
        found = list(session.scalars(select(File)))
        there = {part.digest for part in session.scalars(select(UploadPart).where(UploadPart.upload_id == upload.id))}
    if status == "completed":
        assert b"".join(blobs.read(found[0].digest)) == b"".join(contents) and there == set()
        with blobs.database.write() as session:
            files.delete(session, who, blobs, found[0].id)
    else:
        assert found == [] and there == {hashlib.sha256(content).hexdigest() for content in contents}
        with blobs.database.write() as session:
            uploads.cancel(session, who, blobs, upload.id)
    with blobs.database.write() as session:
        session.execute(update(BlobClaim).values(until=0.0))
    for left in blobs.incoming.iterdir():
        os.utime(left, (time.time() - incoming.NEWBORN - 1,) * 2)
    sweep(blobs)
    assert blobs_there(blobs) == 0
    return status
