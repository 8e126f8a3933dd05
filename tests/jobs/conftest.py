"""A real, tiny base and a few real-looking rows: the whole job in a second or two."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

LABELS = {"parcel": "Where is my parcel?", "refund": "I want my money back.", "broken": "It arrived broken.", "hours": "When do you open?"}


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A LUTHIER_HOME that all runs of a file share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of forty chat rows."""
    return write_rows(tmp_path / "tickets.jsonl")


def write_rows(file: Path) -> Path:
    """Forty chat rows of four labels, always the same."""
    dice = random.Random(0)
    lines = []
    for i in range(40):
        label, words = dice.choice(list(LABELS.items()))
        turns = [("system", "Answer with a label."), ("user", f"{words} Order {dice.randint(1000, 9999)}, {i}."), ("assistant", label)]
        lines.append(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}))
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and caches of a test go to its own folder."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


SHORT = (
    "train.max_steps=6",
    "train.rows_per_step=4",
    "train.save_every=2",
    "train.validate_every=3",
    "evaluate.rows=4",
    "evaluate.max_tokens=4",
)
"""A run of six steps."""


@dataclass
class Service:
    """A database with one project, a place for bytes, and somebody of the project."""

    database: Any
    blobs: Any
    who: Any

    def upload(self, path: Path, *, name: str = "", purpose: str = "fine-tune") -> str:
        """The id of a file."""
        from luthier.store import files

        stored = self.blobs.put([path.read_bytes()], most=1 << 30)
        with self.database.write() as session:
            return str(files.add(session, self.who, stored, filename=name or path.name, purpose=purpose).id)

    def submit(self, file: str, **body: Any) -> Any:
        """A new job of six steps on the tiny base."""
        from luthier.jobs import specs
        from luthier.jobs.asked import NewJob
        from luthier.jobs.submit import submit

        settings = specs.said([*SHORT, *body.pop("settings", [])])
        beside = {key: body.pop(key) for key in ("retry", "idempotency_key", "ignored") if key in body}
        return submit(self.database, NewJob.read({"model": "tiny", "training_file": file, "luthier": settings, **body}, **beside), self.who)

    def job(self, job_id: str) -> Any:
        """The job as it stands."""
        from luthier.store.tables.jobs import Job

        with self.database.read() as session:
            return session.scalars(select(Job).where(Job.id == job_id)).one()

    def events(self, job_id: str, kind: str = "message") -> list[Any]:
        """What it told, in order."""
        from luthier.store.tables.jobs import JobEvent

        with self.database.read() as session:
            return list(session.scalars(select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type == kind).order_by(JobEvent.n)))


@pytest.fixture
def service(database: Any, home: Path, tiny_base: Path) -> Service:
    """A service without processes; the tiny base is one of its models."""
    from luthier.security import tenants
    from luthier.store.audit import LOCAL, Deputy
    from luthier.store.blobs import Blobs

    (home / "models").mkdir(parents=True)
    (home / "models" / "tiny").symlink_to(tiny_base)
    with database.write() as session:
        settled = tenants.settle(session)
    assert settled is not None
    return Service(database, Blobs.open(database), Deputy(LOCAL.name, settled[0].organisation_id, settled[0].id))


@pytest.fixture
def job(service: Service, rows: Path) -> Any:
    """A job that was just made."""
    return service.submit(service.upload(rows))
