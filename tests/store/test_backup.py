"""A backup holds everything of one moment, and is put back as it was: verified first, on either database, whoever dies meanwhile."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore
from sqlalchemy import select, text

from luthier.core.errors import NotFound, SpecError, StorageError
from luthier.security import tenants
from luthier.security.actor import actor_of
from luthier.security.keys import NewKey
from luthier.store import files, ids, rows, upgrade
from luthier.store.archive import MANIFEST
from luthier.store.audit import LOCAL, Deputy
from luthier.store.backup import backup
from luthier.store.blobs import Blobs
from luthier.store.database import Database
from luthier.store.restore import restore
from luthier.store.tables.files import BlobClaim, File
from luthier.store.tables.jobs import Job
from luthier.store.tables.tenants import Organisation

CONTENTS = (b"one", b"", os.urandom(3 << 20))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs, one of which was just being written to."""
    folder = tmp_path / "runs"
    for name, content in {
        "run-1/spec.yaml": "model: x",
        "run-1/checkpoints/step-000120/weights.safetensors": "w" * 1000,
        "run-1/adapter/adapter_config.json": "{}",
        "run-1/steps.jsonl": "{}\n" * 10,
        "run-1/checkpoints/.step-000130.77.part/weights.safetensors": "half",
        "run 2 é/state.json": "{}",
        ".run-3.77.part/spec.yaml": "half",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    (folder / "run-1" / "elsewhere").symlink_to("/etc")
    return folder


@pytest.fixture
def key(blobs: Blobs) -> NewKey:
    """A database with a bit of everything, and the key to it."""
    made = tenants.first_start(blobs.database)
    assert made is not None
    who = Deputy(made.key.id, None, made.key.project_id)
    for number, content in enumerate(CONTENTS):
        stored = blobs.put([content], most=1 << 30)
        with blobs.database.write() as session:
            files.add(session, who, stored, filename=f"{number}.jsonl", purpose="fine-tune")
    with blobs.database.write() as session:
        session.add(
            Job(
                id=ids.new("ftjob-"),
                project_id=made.key.project_id,
                model="m",
                training_file="file-é\n",
                seed=2**40,
                method={"type": "dpo", "dpo": {"beta": 0.1}},
                spec={"a": [1, 2.5, None, "\u2028"]},
                request_digest="",
                lease_until=1234567890.123456,
            )
        )
    return made


@pytest.fixture
def other(database_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Blobs]:
    """Empty blobs with an empty database of the other kind."""
    if database_kind == "sqlite":
        cluster = request.getfixturevalue("cluster")
        url = cluster.create(name := f"other{time.monotonic_ns()}")
    else:
        cluster, name, url = None, "", f"sqlite:///{tmp_path / 'other.db'}"
    database = Database.connect(url)
    yield Blobs.open(database, str(tmp_path / "other-blobs"))
    database.close()
    if cluster:
        cluster.drop(name)


def everything(database: Database) -> dict[str, list[Any]]:
    """All rows of all tables, but for those that mean nothing elsewhere."""
    with database.read() as session:
        return {
            name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key.columns))]
            for name, table in rows.Table.metadata.tables.items()
            if name not in rows.PASSING
        }


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["saved", "saved.tar"])
def test_everything_comes_back_on_the_other_kind_of_database(
    name: str, blobs: Blobs, key: NewKey, other: Blobs, runs: Path, tmp_path: Path
) -> None:
    manifest = backup(blobs, runs, tmp_path / name)
    assert (manifest.rows["files"], manifest.rows["jobs"], manifest.rows["keys"]) == (3, 1, 1)
    restored = restore(tmp_path / name, other, tmp_path / "restored")
    assert restored == manifest
    assert everything(other.database) == everything(blobs.database)
    with other.database.read() as session:
        assert actor_of(session, key.secret).project_id == key.key.project_id
        for file in session.scalars(select(File)):
            assert b"".join(other.read(file.digest)) == CONTENTS[int(file.filename[0])]
        assert list(session.scalars(select(BlobClaim))) == []
    assert sorted(tree(tmp_path / "restored")) == [
        "run 2 é/state.json",
        "run-1/adapter/adapter_config.json",
        "run-1/checkpoints/step-000120/weights.safetensors",
        "run-1/spec.yaml",
        "run-1/steps.jsonl",
    ]
    assert (tmp_path / name).stat().st_mode & 0o077 == 0, "only its owner may read it"


def test_what_was_restored_works_on(blobs: Blobs, key: NewKey, other: Blobs, runs: Path, tmp_path: Path) -> None:
    """New rows get new numbers, deleted files take their bytes along."""
    backup(blobs, runs, tmp_path / "saved")
    restore(tmp_path / "saved", other, tmp_path / "restored")
    who = Deputy("x", None, key.key.project_id)
    stored = other.put([b"new"], most=10)
    with other.database.write() as session:
        old = files.listed(session, key.key.project_id).rows
        made = files.add(session, who, stored, filename="x", purpose="batch")
    assert made.n > max(file.n for file in old)
    with other.database.write() as session:
        files.delete(session, who, other, old[0].id)
    with pytest.raises(StorageError):
        other.size(old[0].digest)


def test_a_backup_is_never_written_over_anything(blobs: Blobs, key: NewKey, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "there.tar").write_text("mine")
    with pytest.raises(SpecError, match="There is something already") as raised:
        backup(blobs, runs, tmp_path / "there.tar")
    assert raised.value.code == "out_exists" and (tmp_path / "there.tar").read_text() == "mine"


def test_a_restore_is_never_written_over_anything(blobs: Blobs, key: NewKey, other: Blobs, runs: Path, tmp_path: Path) -> None:
    backup(blobs, runs, tmp_path / "saved")
    before = everything(blobs.database)
    with pytest.raises(SpecError, match="The database has rows") as raised:
        restore(tmp_path / "saved", blobs, tmp_path / "restored")
    assert raised.value.code == "restore_target" and everything(blobs.database) == before
    (tmp_path / "restored" / "run-1").mkdir(parents=True)
    (tmp_path / "restored" / "run-1" / "spec.yaml").write_text("mine")
    with pytest.raises(SpecError, match="There is a run run-1 already"):
        restore(tmp_path / "saved", other, tmp_path / "restored")
    assert tree(tmp_path / "restored") == {"run-1/spec.yaml": b"mine"} and upgrade.revision(other.database) == ""


@pytest.mark.parametrize("name", ["saved", "saved.tar"])
def test_a_damaged_backup_touches_nothing(name: str, blobs: Blobs, key: NewKey, other: Blobs, runs: Path, tmp_path: Path) -> None:
    manifest = backup(blobs, runs, tmp_path / name)
    place = tmp_path / name
    for entry in (manifest.files[0], manifest.files[-1], next(e for e in manifest.files if e.name.startswith("blobs/") and e.bytes)):
        file, at = place / entry.name, 0
        if place.is_file():
            with tarfile.open(place) as archive_file:
                file, at = place, archive_file.getmember(entry.name).offset_data
        whole = file.read_bytes()
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StorageError, match=f"The backup is damaged: {entry.name} has other bytes than were saved") as raised:
            restore(place, other, tmp_path / "restored")
        assert raised.value.code == "backup_damaged"
        file.write_bytes(whole)
    place.rename(tmp_path / "moved")
    assert upgrade.revision(other.database) == "" and not (tmp_path / "restored").exists()
    assert [file for file in tree(tmp_path / "other-blobs")] == []


def test_a_backup_that_was_cut_off(blobs: Blobs, key: NewKey, other: Blobs, runs: Path, tmp_path: Path) -> None:
    backup(blobs, runs, tmp_path / "saved.tar")
    whole = (tmp_path / "saved.tar").read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 40_000):
        (tmp_path / "saved.tar").write_bytes(whole[:length])
        with pytest.raises(StorageError, match="The backup is damaged") as raised:
            restore(tmp_path / "saved.tar", other, tmp_path / "restored")
        assert raised.value.code == "backup_damaged"


def change(folder: Path, **fields: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | fields))


def test_backups_of_newer_versions(blobs: Blobs, key: NewKey, other: Blobs, runs: Path, tmp_path: Path) -> None:
    backup(blobs, runs, tmp_path / "saved")
    for fields, message in (
        ({"step": "9999", "luthier": "7.0"}, r"newer Luthier \(7\.0\): its tables are at step 9999"),
        ({"format": 2}, "The backup has format 2, and this version reads up to 1"),
    ):
        change(tmp_path / "saved", **fields)
        with pytest.raises(StorageError, match=message) as raised:
            restore(tmp_path / "saved", other, tmp_path / "restored")
        assert raised.value.code == "backup_newer"


@pytest.mark.parametrize(
    "name",
    [
        "runs/../../etc/passwd",
        "/etc/passwd",
        "runs/x/../../y",
        "database/../x.jsonl",
        "blobs/sha256/ab/short",
        f"blobs/sha256/ab/{'1' * 64}",
        "else",
        "runs/x",
    ],
)
def test_a_backup_that_leads_out_of_its_place(name: str, blobs: Blobs, key: NewKey, other: Blobs, runs: Path, tmp_path: Path) -> None:
    backup(blobs, runs, tmp_path / "saved")
    change(tmp_path / "saved", files=[{"name": name, "bytes": 1, "sha256": "0" * 64}])
    with pytest.raises(StorageError, match=r"its manifest cannot be read: .*a file named"):
        restore(tmp_path / "saved", other, tmp_path / "restored")


def test_what_is_no_backup(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "nothing", tmp_path / "folder"):
        with pytest.raises(NotFound, match="There is no backup here") as raised:
            restore(place, blobs, tmp_path)
        assert raised.value.code == "no_backup"
    (tmp_path / "file").write_text("x" * 2000)
    with pytest.raises(StorageError, match="it is no tar file"):
        restore(tmp_path / "file", blobs, tmp_path)


def test_rows_that_are_missing_undo_the_restore(blobs: Blobs, key: NewKey, other: Blobs, runs: Path, tmp_path: Path) -> None:
    backup(blobs, runs, tmp_path / "saved")
    change(tmp_path / "saved", rows={"files": 4})
    with pytest.raises(StorageError, match="rows, and should have") as raised:
        restore(tmp_path / "saved", other, tmp_path / "restored")
    assert raised.value.code == "backup_damaged" and rows.is_empty(other.database)
    assert other.sweep() == 0, "the blobs may still be wanted: somebody tries again"


def test_a_damaged_blob_is_named(blobs: Blobs, key: NewKey, runs: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(CONTENTS[0]).hexdigest()
    obstore.put(blobs.store, f"sha256/{digest[:2]}/{digest}", b"rotten")
    with pytest.raises(StorageError, match="the disk has damaged them") as raised:
        backup(blobs, runs, tmp_path / "saved")
    assert raised.value.code == "blob_damaged" and raised.value.where == digest
    assert not (tmp_path / "saved").exists() and left_in(tmp_path) == []


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.glob(".luthier-backup*")]


def test_files_deleted_while_the_backup_runs_are_in_it(
    blobs: Blobs, key: NewKey, other: Blobs, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were there at its moment; afterwards they are gone for good."""
    plain, who = rows.write, Deputy("x", None, key.key.project_id)

    def then_delete(database: Database, folder: Path) -> Any:
        result = plain(database, folder)
        with database.write() as session:
            for file in files.listed(session, key.key.project_id).rows:
                files.delete(session, who, blobs, file.id)
        assert blobs.sweep() == 0
        return result

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(rows, "write", then_delete)
        backup(blobs, runs, tmp_path / "saved")
    assert blobs.sweep() == 3
    restore(tmp_path / "saved", other, tmp_path / "restored")
    with other.database.read() as session:
        assert [other.size(file.digest) for file in session.scalars(select(File).order_by(File.n))] == [len(c) for c in CONTENTS]


def test_the_rows_are_those_of_one_moment(database: Database, tmp_path: Path) -> None:
    """Somebody writes organisations, each with its project, while rows are copied: never one without the other."""
    stop = threading.Event()

    def found() -> None:
        for number in itertools.count():
            with database.write() as session:
                home = tenants.create_organisation(session, LOCAL, f"home-{number}")
                tenants.create_project(session, LOCAL, home.id, "room")
            if stop.is_set():
                return

    writer = threading.Thread(target=found)
    writer.start()
    seen = set()
    for _ in range(10):
        _, counts, _ = rows.write(database, tmp_path)
        seen.add(counts["organisations"])
        assert counts["organisations"] == counts["projects"] == counts["audit"] / 2
    stop.set()
    writer.join()
    assert len(seen) > 1, "somebody did write meanwhile"


def test_a_backup_of_older_tables_is_brought_forward(
    blobs: Blobs, key: NewKey, other: Blobs, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(blobs, runs, tmp_path / "saved")
    steps = tmp_path / "steps"
    steps.mkdir()
    (steps / "next.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision = 'next', '{upgrade.heads()}'\n"
        "def upgrade():\n"
        "    with op.batch_alter_table('organisations') as batch:\n"
        "        batch.add_column(sa.Column('colour', sa.String(), nullable=False, server_default='red'))\n"
    )
    plain = upgrade.configuration

    def with_one_more(connection: Any) -> Any:
        config = plain(connection)
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", f"{Path(upgrade.__file__).parent / 'migrations' / 'versions'}\n{steps}")
        return config

    monkeypatch.setattr(upgrade, "configuration", with_one_more)
    restore(tmp_path / "saved", other, tmp_path / "restored")
    with other.database.engine.connect() as connection:
        assert connection.execute(text("SELECT name, colour FROM organisations")).all() == [("default", "red")]
    assert upgrade.revision(other.database) == "next"


SLOW = """
    import sys, time
    from pathlib import Path
    from luthier.store import archive
    from luthier.store.backup import backup
    from luthier.store.blobs import Blobs
    from luthier.store.database import Database
    from luthier.store.restore import restore

    verb, url, folder, runs, place, stop = sys.argv[1:]
    count = 0

    def counted(plain):
        def then_say(*arguments, **named):
            global count
            count += 1
            if count == int(stop):
                print("now", flush=True)
                time.sleep(60)
            return plain(*arguments, **named)
        return then_say

    archive._Folder.add, archive._Tar.add, Blobs.put = counted(archive._Folder.add), counted(archive._Tar.add), counted(Blobs.put)
    blobs = Blobs.open(Database.connect(url), folder)
    if verb == "backup":
        backup(blobs, Path(runs), Path(place))
    else:
        restore(Path(place), blobs, Path(runs))
"""


def killed(verb: str, blobs: Blobs, runs: Path, place: Path, *, at: int) -> None:
    """Begin in a process of its own, and kill that at its `at`-th file."""
    url = blobs.database.engine.url.render_as_string(hide_password=False)
    arguments = [verb, url, str(blobs.folder), str(runs), str(place), str(at)]
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SLOW), *arguments], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "now\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


def test_a_killed_backup_is_no_backup_and_the_next_one_clears_it_away(database: Database, runs: Path, tmp_path: Path) -> None:
    blobs = Blobs.open(database, str(tmp_path / "blobs"))
    tenants.first_start(database)
    (tmp_path / "out").mkdir()
    for name in ("saved", "saved.tar"):
        killed("backup", blobs, runs, tmp_path / "out" / name, at=20)
        assert not (tmp_path / "out" / name).exists() and len(left_in(tmp_path / "out")) == 1
        backup(blobs, runs, tmp_path / "out" / name)
        assert left_in(tmp_path / "out") == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["saved", "saved.tar"]


def test_a_killed_restore_is_begun_again(database: Database, other: Blobs, runs: Path, tmp_path: Path) -> None:
    blobs = Blobs.open(database, str(tmp_path / "blobs"))
    who = tenants.first_start(database)
    assert who is not None
    for content in CONTENTS:
        stored = blobs.put([content], most=1 << 30)
        with database.write() as session:
            files.add(session, Deputy("x", None, who.key.project_id), stored, filename="x", purpose="batch")
    backup(blobs, runs, tmp_path / "saved.tar")
    killed("restore", other, tmp_path / "restored", tmp_path / "saved.tar", at=3)
    assert rows.is_empty(other.database)
    restore(tmp_path / "saved.tar", other, tmp_path / "restored")
    assert everything(other.database) == everything(database)


FULL = """
    import resource, sys
    from pathlib import Path
    from luthier.core.errors import StorageError
    from luthier.store.backup import backup
    from luthier.store.blobs import Blobs
    from luthier.store.database import Database

    url, folder, place = sys.argv[1:]
    blobs = Blobs.open(Database.connect(url), folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    try:
        backup(blobs, Path("nothing"), Path(place))
    except StorageError as error:
        print(error.code, error.what)
"""


@pytest.mark.parametrize("name", ["saved", "saved.tar"])
def test_a_full_disk_leaves_nothing(name: str, sqlite_template: Path, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{tmp_path / 'x.db'}"
    database = Database.connect(url)
    blobs = Blobs.open(database, str(tmp_path / "blobs"))
    who = tenants.first_start(database)
    assert who is not None
    stored = blobs.put([CONTENTS[2]], most=1 << 30)
    with database.write() as session:
        files.add(session, Deputy("x", None, who.key.project_id), stored, filename="x", purpose="batch")
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(FULL), url, str(tmp_path / "blobs"), str(tmp_path / "out" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "storage Could not write: File too large.\n"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bucket_and_a_folder_are_the_same_to_a_backup(database: Database, tmp_path: Path) -> None:
    bucket = Blobs(database, MemoryStore(), folder=None, incoming=tmp_path / "incoming")
    who = tenants.first_start(database)
    assert who is not None
    stored = bucket.put([b"x"], most=1)
    with database.write() as session:
        files.add(session, Deputy("x", None, who.key.project_id), stored, filename="x", purpose="batch")
        assert session.scalar(select(Organisation.name)) == "default"
    manifest = backup(bucket, tmp_path / "nothing", tmp_path / "saved")
    saved = [entry.name for entry in manifest.files if entry.name.startswith("blobs/")]
    assert saved == [f"blobs/sha256/{stored.digest[:2]}/{stored.digest}"]
    assert list(bucket.incoming.iterdir()) == []
