"""From a request to a job: what the wire means in a Spec, what is refused and by which field, and that asking twice makes one job."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from luthier.core.errors import LuthierError, NotFound, SpecError
from luthier.core.spec import Spec
from luthier.jobs import specs
from luthier.jobs.asked import NewJob
from luthier.jobs.submit import submit
from luthier.store import files
from luthier.store.audit import Deputy
from luthier.store.tables.jobs import Job

from .conftest import Service


def count(service: Service) -> int:
    with service.database.read() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def test_fields_of_the_wire_become_a_spec_and_are_shown_as_they_were_asked(service: Service, rows: Path) -> None:
    numbers = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 0.5}
    body: dict[str, Any] = {
        "model": "tiny",
        "training_file": service.upload(rows),
        "validation_file": service.upload(rows, name="held.jsonl"),
        "suffix": "desk",
        "seed": 7,
        "metadata": {"team": "a"},
        "method": {"type": "supervised", "supervised": {"hyperparameters": numbers}},
        "luthier": {"method": {"name": "lora", "rank": 4}, "quality": "draft"},
    }
    job = service.job(submit(service.database, NewJob.read(body, ignored=["weather"]), service.who).id)
    spec = Spec.parse(job.spec)
    assert (spec.train.epochs, spec.train.rows_per_step, spec.train.seed, spec.method.options["rank"]) == (2, 8, 7, 4)
    assert spec.quality == "draft"
    assert (spec.data.file, spec.train.learning_rate) == ("", "auto"), "what the child fills in"
    assert Path(spec.model.name).name == "tiny"
    assert job.hyperparameters == numbers
    assert job.method == {"type": "supervised", "supervised": {"hyperparameters": numbers}}
    assert (job.state, job.suffix, job.seed, job.facts, job.asked["ignored"]) == ("validating_files", "desk", 7, {"team": "a"}, ["weather"])
    assert (job.project_id, job.key_id, job.run, job.worker_id) == (service.who.project_id, "local", "", None)
    assert [event.message for event in service.events(job.id)] == [
        "The job was made: tiny learns from tickets.jsonl, and is held against held.jsonl.",
        "Its files are being checked.",
    ]


def test_what_is_not_said_is_auto_and_the_seed_is_drawn(service: Service, rows: Path) -> None:
    file = service.upload(rows)
    first, second = service.submit(file), service.submit(file, hyperparameters={"n_epochs": "auto", "batch_size": None})
    assert first.hyperparameters == dict.fromkeys(("n_epochs", "batch_size", "learning_rate_multiplier"), "auto")
    assert second.hyperparameters == first.hyperparameters
    assert first.seed != second.seed
    assert service.submit(file, settings=["train.seed=5"]).seed == 5


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"batch_size": 0}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"n_epochs": 2.5}}, "hyperparameters.n_epochs"),
        ({"hyperparameters": {"n_epochs": True}}, "hyperparameters.n_epochs"),
        (
            {"method": {"type": "supervised", "supervised": {"hyperparameters": {"learning_rate_multiplier": -1.0}}}},
            "method.supervised.hyperparameters.learning_rate_multiplier",
        ),
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}}, "method.dpo.hyperparameters.beta"),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {"type": "python"}}}}, "method.reinforcement.grader.type"),
        ({"method": {"type": "reinforcement", "reinforcement": {"grader": {"type": "oracle"}}}}, "method.reinforcement.grader"),
        ({"method": {"type": "other"}}, "method.type"),
        ({"suffix": ""}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"training_file": 5}, "training_file"),
        ({"luthier": {"weather": {}}}, "luthier"),
        ({"luthier": {"method": {"name": "lora", "rnak": 4}}}, "luthier"),
        ({"luthier": {"train": {"epochs": -1}}}, "luthier"),
        ({"luthier": {"train": 5}}, "luthier.train"),
        ({"luthier": {"config": "/etc/hostname"}}, "luthier"),
        ({"luthier": {"settings": ["data.file=/etc/hostname"]}}, "luthier"),
        ({"luthier": {"data": {"file": "/etc/hostname"}}}, "luthier.data.file"),
        ({"luthier": {"data": {"valid": "/etc/hostname"}}}, "luthier.data.valid"),
        ({"luthier": {"data": "/etc/hostname"}}, "luthier.data"),
        ({"luthier": {"model": {"name": "/etc"}}}, "luthier.model.name"),
        ({"luthier": {"model": "/etc"}}, "luthier.model"),
        ({"luthier": {"train": {"epochs": 1}}, "hyperparameters": {"n_epochs": 1}}, "luthier.train.epochs"),
        ({"luthier": {"train": {"seed": 1}}, "seed": 1}, "luthier.train.seed"),
        (
            {"hyperparameters": {"n_epochs": 1}, "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}},
            "hyperparameters",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_what_does_not_do_is_refused_by_the_name_of_its_field(service: Service, rows: Path, body: dict[str, Any], field: str) -> None:
    whole = {"model": "tiny", "training_file": service.upload(rows)} | body
    with pytest.raises(SpecError) as refused:
        submit(service.database, NewJob.read(whole), service.who)
    assert refused.value.where == field
    assert refused.value.remedy
    assert count(service) == 0


@pytest.mark.parametrize("name", ["gpt-9", "../models/tiny", "/etc", "tiny/../tiny", "models/tiny", "ft:tiny:default::abc", ""])
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_a_base_is_named_and_never_a_path(service: Service, rows: Path, home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(LuthierError) as refused:
        service.submit(service.upload(rows), model=name)
    assert refused.value.where == "model"


def test_a_file_must_be_there_be_ours_and_be_meant_for_this(service: Service, rows: Path) -> None:
    mine, other = service.upload(rows), service.upload(rows, purpose="batch")
    for field in ("training_file", "validation_file"):
        whole = {"model": "tiny", "training_file": mine}
        with pytest.raises(NotFound) as missing:
            submit(service.database, NewJob.read(whole | {field: "file-none"}), service.who)
        with pytest.raises(SpecError, match="was sent for batch, not for fine-tune") as wrong:
            submit(service.database, NewJob.read(whole | {field: other}), service.who)
        assert (missing.value.where, wrong.value.where) == (field, field)
    with pytest.raises(NotFound, match="There is no file"):
        submit(service.database, NewJob.read({"model": "tiny", "training_file": mine}), Deputy("key_x", None, "proj_other"))
    with service.database.write() as session:
        files.delete(session, service.who, service.blobs, mine)
    with pytest.raises(NotFound, match="There is no file"):
        service.submit(mine)
    assert count(service) == 0


def test_a_request_that_calls_itself_a_retry_makes_one_job(service: Service, rows: Path) -> None:
    file = service.upload(rows)
    first = service.submit(file)
    assert service.submit(file, retry=1).id == first.id
    assert service.submit(file, retry=2, ignored=[]).id == first.id
    assert service.submit(file, retry=1, suffix="other").id != first.id, "another body"
    again = service.submit(file)
    assert again.id != first.id, "two wishes are two jobs"
    with service.database.write() as session:
        for job in session.scalars(select(Job)):
            job.created_at -= 120
    assert service.submit(file, retry=1).id not in (first.id, again.id), "not within a minute"


def test_a_retry_of_a_request_that_never_arrived_makes_a_job(service: Service, rows: Path) -> None:
    assert service.submit(service.upload(rows), retry=1).state == "validating_files"


def test_an_idempotency_key_counts_for_a_day_and_for_one_request(service: Service, rows: Path) -> None:
    file = service.upload(rows)
    first = service.submit(file, idempotency_key="a")
    assert service.submit(file, idempotency_key="a").id == first.id
    assert service.submit(file, idempotency_key="b").id != first.id
    with pytest.raises(SpecError, match="used for another request") as refused:
        service.submit(file, idempotency_key="a", suffix="other")
    assert refused.value.code == "key_reused"
    stranger = Deputy("key_x", service.who.organisation_id, service.who.project_id)
    body = {"model": "tiny", "training_file": file}
    other = submit(service.database, NewJob.read(body, idempotency_key="a"), stranger)
    assert other.id != first.id, "another one's key"


def test_equal_retries_at_the_same_moment_make_one_job(service: Service, rows: Path) -> None:
    file, made = service.upload(rows), []
    start = threading.Barrier(6)

    def ask() -> None:
        start.wait()
        made.append(service.submit(file, retry=1).id)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 6
    assert len(set(made)) == count(service) == 1


def test_preferences_are_learned_by_dpo_or_refused(service: Service, rows: Path) -> None:
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}}
    if "dpo" in specs.OBJECTIVES.names():
        job = service.submit(service.upload(rows), method=method)
        assert job.spec["objective"] | {"name": "dpo", "beta": 0.2} == job.spec["objective"]
        assert job.hyperparameters["beta"] == 0.2
    else:
        with pytest.raises(SpecError, match="cannot learn from preferences") as refused:
            service.submit(service.upload(rows), method=method)
        assert refused.value.where == "method.type"


def test_integrations_are_shown_and_told_to_do_nothing(service: Service, rows: Path) -> None:
    asked = [{"type": "wandb", "wandb": {"project": "x"}}]
    job = service.submit(service.upload(rows), integrations=asked)
    assert (job.integrations, job.asked["ignored"]) == (asked, ["integrations"])
    assert time.time() - job.created_at < 60
