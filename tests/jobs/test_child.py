"""What a child does for its claim, here in this process: check, run, go on, end once."""

import base64
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from luthier.core.errors import Interrupted, StorageError
from luthier.core.events import Event, Stage, Stepped
from luthier.core.files import sha256
from luthier.jobs import child, control, metrics, queue, relay, states
from luthier.jobs.queue import CHECKING, Claim, Taken
from luthier.jobs.relay import Relay
from luthier.methods import lora
from luthier.models.load import load
from luthier.store import files
from luthier.store.holding import held
from luthier.store.runs import RunFolder
from luthier.store.tables.jobs import Checkpoint
from luthier.store.tables.models import TunedModel

from .conftest import Service

ON_SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def take(service: Service, device: str = "cpu") -> Claim:
    found = queue.claim(service.database, worker_id="worker_a", device=device)
    assert found is not None
    return found


def check(service: Service) -> None:
    child.work(service.database, service.blobs, take(service, CHECKING))


def run(service: Service) -> Claim:
    mine = take(service)
    child.work(service.database, service.blobs, mine)
    return mine


def rows_of(service: Service, table: Any, job_id: str) -> list[Any]:
    with service.database.read() as session:
        return list(session.scalars(select(table).where(table.job_id == job_id).order_by(table.n)))


def folder_of(home: Path, job_id: str) -> RunFolder:
    return RunFolder((home / "runs" / job_id).resolve())


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int, how: Any) -> None:
    """Call `how` when the run has done so many steps."""
    heard = Relay.__call__

    def hear(self: Relay, event: Event) -> None:
        heard(self, event)
        if isinstance(event, Stepped) and event.step == step:
            how()

    monkeypatch.setattr(Relay, "__call__", hear)


def test_a_job_from_its_files_to_a_model_with_a_name(service: Service, rows: Path, home: Path) -> None:
    numbers = {"learning_rate_multiplier": 0.5}
    file = service.upload(rows, name="Tickets of May.jsonl")
    job_id = service.submit(file, suffix="My Desk", hyperparameters=numbers, settings=["train.rows_per_step=36", "train.epochs=4"]).id
    check(service)
    assert service.job(job_id).state == "queued"
    run(service)
    job, folder = service.job(job_id), folder_of(home, job_id)
    steps = metrics.every(folder.steps)
    assert (job.state, job.error, job.worker_id, job.child) == ("succeeded", None, None, None)
    assert job.fine_tuned_model == f"ft:tiny:default:my-desk:{job_id[-8:].lower()}"
    assert job.trained_tokens == sum(step["tokens"] for step in steps) > 0
    assert job.hyperparameters == {"n_epochs": 4, "batch_size": 36, "learning_rate_multiplier": 0.5}
    assert job.method["supervised"]["hyperparameters"] == job.hyperparameters
    assert json.loads((folder.evaluation / "summary.json").read_text())["verdict"] == job.verdict
    told = [event.message for event in service.events(job_id)]
    assert "learning_rate 0.0015: 0.5 x what would have been derived" in told
    assert told[-1] == f"The job is done; its model is called {job.fine_tuned_model}."
    seen = service.events(job_id, "metrics")
    assert [event.data["step"] for event in seen] == [1, 2, 3, 4]
    assert seen[-1].data == {key: value for key, value in steps[-1].items() if key != "tokens"}
    assert "valid_loss" in seen[-1].data


def test_its_checkpoints_can_be_loaded_and_its_numbers_are_a_file(service: Service, rows: Path, home: Path) -> None:
    job_id = service.submit(service.upload(rows), settings=["train.rows_per_step=36", "train.epochs=5", "train.max_steps=5"]).id
    check(service)
    run(service)
    job = service.job(job_id)
    points = rows_of(service, Checkpoint, job_id)
    assert [point.step for point in points] == [3, 4, 5], "the last three passes"
    assert [point.model_id for point in points] == [f"{job.fine_tuned_model}:ckpt-step-{step}" for step in (3, 4, 5)]
    assert points[0].metrics["valid_loss"] == points[0].metrics["full_valid_loss"] > 0
    models = {model.id: model for model in rows_of(service, TunedModel, job_id)}
    assert set(models) == {job.fine_tuned_model, *(point.model_id for point in points)}
    for model in models.values():
        base = load(model.base, dtype="float32")
        lora.Method.load(base, home / "runs" / model.run / model.folder)
    assert models[job.fine_tuned_model].certificate["probes"] > 0
    with service.database.read() as session:
        result = files.get(session, job.project_id, job.result_files[0])
    assert (result.purpose, result.filename) == ("fine-tune-results", "step_metrics.csv")
    table = base64.b64decode(b"".join(service.blobs.read(result.digest))).decode().splitlines()
    assert table[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert [line.split(",")[0] for line in table[1:]] == ["1", "2", "3", "4", "5"]


@ON_SQLITE
def test_rows_that_do_not_pass_end_the_job_before_anything_is_spent(service: Service, rows: Path, home: Path) -> None:
    lines = rows.read_text().splitlines()
    lines[6] = json.dumps({"messages": [{"role": "user", "content": "Hello?"}]})
    rows.write_text("\n".join(lines))
    good = rows.with_name("good.jsonl")
    good.write_text("\n".join(line.replace("Order", "Number") for line in lines[:6] + lines[7:]))
    bad_training = service.submit(service.upload(rows, name="bad one.jsonl")).id
    bad_validation = service.submit(service.upload(good), validation_file=service.upload(rows, name="bad one.jsonl")).id
    for job_id, field in ((bad_training, "training_file"), (bad_validation, "validation_file")):
        check(service)
        job = service.job(job_id)
        assert (job.state, job.error["code"], job.error["param"]) == ("failed", "data_refused", field)
        assert "row 7" in job.error["message"]
        assert job.error["message"].endswith(f"GET /v1/files/{getattr(job, field)}/report lists every one.")
        assert "bad one.jsonl" in job.error["message"]
        assert str(home) not in job.error["message"]
        assert not folder_of(home, job_id).path.exists()
        assert service.events(job_id)[-1].level == "error"


@ON_SQLITE
def test_a_file_that_was_deleted_meanwhile_is_told(service: Service, rows: Path) -> None:
    file = service.upload(rows)
    job_id = service.submit(file).id
    with service.database.write() as session:
        files.delete(session, service.who, service.blobs, file)
    check(service)
    job = service.job(job_id)
    assert (job.state, job.error["code"], job.error["param"]) == ("failed", "unknown_file", "training_file")


@ON_SQLITE
def test_what_the_model_refutes_ends_the_job_with_its_reason(service: Service, rows: Path) -> None:
    job_id = service.submit(service.upload(rows), settings=["method.targets=[nowhere]"]).id
    check(service)
    run(service)
    job = service.job(job_id)
    assert (job.state, job.error["code"]) == ("failed", "targets")
    assert "method.targets" in job.error["message"]


@ON_SQLITE
def test_a_job_that_is_stopped_anywhere_goes_on_and_tells_every_step_once(
    service: Service, rows: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "EVERY", 0.0)
    file = service.upload(rows)
    first, second = (service.submit(file, settings=["train.seed=3"]).id for _ in range(2))
    check(service), check(service)
    run(service)

    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    for step, how in ((3, kill), (4, lambda: os.kill(os.getpid(), signal.SIGTERM)), (5, kill)):
        with monkeypatch.context() as patch:
            stop_at(patch, step, how)
            mine = take(service)
            with pytest.raises((Killed, Interrupted)):
                child.work(service.database, service.blobs, mine)
        queue.release(service.database, mine)
    run(service)
    left_alone, disturbed = service.events(first, "metrics"), service.events(second, "metrics")
    assert [event.data for event in disturbed] == [event.data for event in left_alone]
    assert [event.data["step"] for event in disturbed] == [1, 2, 3, 4, 5, 6]
    again = ("The job goes on.", "The job waits: its worker stops.")
    told = [event.message for event in service.events(second) if event.message not in again]
    assert len(told) == len(set(told)), "nothing is told twice"
    weights = [sha256(folder_of(home, job_id).weights / "adapter_model.safetensors") for job_id in (first, second)]
    assert weights[0] == weights[1]


@ON_SQLITE
def test_a_job_killed_after_its_run_was_complete_ends_once(
    service: Service, rows: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = service.submit(service.upload(rows)).id
    check(service)
    mine = take(service)
    with monkeypatch.context() as patch:
        patch.setattr(child.outcome, "succeeded", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            child.work(service.database, service.blobs, mine)
    assert folder_of(home, job_id).state()["state"] == "succeeded"
    queue.release(service.database, mine, crash="killed by SIGKILL", how=queue.KILLED)
    run(service)
    job = service.job(job_id)
    assert (job.state, len(job.result_files), len(service.events(job_id, "metrics"))) == ("succeeded", 1, 6)
    with pytest.raises(Taken):
        child.work(service.database, service.blobs, mine)


@ON_SQLITE
def test_a_child_whose_job_was_taken_writes_nothing_and_ends(service: Service, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "EVERY", 0.0)
    job_id = service.submit(service.upload(rows)).id
    check(service)
    mine = take(service)
    stop_at(monkeypatch, 3, lambda: queue.recover(service.database, "worker_a"))
    with pytest.raises(Taken):
        child.work(service.database, service.blobs, mine)
    job = service.job(job_id)
    assert (job.state, job.worker_id) == ("queued", None)
    assert max(event.data["step"] for event in service.events(job_id, "metrics")) <= 3


@ON_SQLITE
def test_a_cancel_that_comes_before_the_end_is_kept(service: Service, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = service.submit(service.upload(rows)).id
    check(service)
    mine = take(service)
    monkeypatch.setattr(metrics, "every", lambda file: control.cancel(service.database, job_id, service.who) and [])
    with pytest.raises(Interrupted):
        child.work(service.database, service.blobs, mine)
    queue.release(service.database, mine)
    job = service.job(job_id)
    assert (job.state, job.fine_tuned_model, job.result_files) == ("cancelled", None, [])
    assert [model.step for model in rows_of(service, TunedModel, job_id)] == [6], "only what it had learned by its last pass"


@ON_SQLITE
def test_a_busy_database_ends_no_training(service: Service, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "EVERY", 0.0)
    job_id = service.submit(service.upload(rows)).id
    check(service)
    calls = []

    def busy(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) % 2:
            raise StorageError("Others held the database for too long.", code="database_busy")
        return queue.fenced(*arguments)

    monkeypatch.setattr(relay, "fenced", busy)
    run(service)
    assert len(calls) > 4
    assert [event.data["step"] for event in service.events(job_id, "metrics")] == [1, 2, 3, 4, 5, 6]


def test_a_run_that_never_began_is_cleared_away_and_a_held_one_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(home, "ftjob-x")
    folder.path.mkdir(parents=True)
    (folder.path / "state.json").write_text("{")
    child._take(folder, 4)
    assert [part.name for part in folder.path.iterdir()] == [".lock"]
    monkeypatch.setattr(child, "LOCK_PATIENCE", 0.3)
    with held(folder.path), pytest.raises(StorageError, match="Another process works on this run"):
        child._take(folder, 5)
    shutil.rmtree(folder.path)


@ON_SQLITE
def test_a_hint_of_when_it_will_be_done(service: Service, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = service.submit(service.upload(rows)).id
    check(service)
    mine = take(service)
    told = Relay(service.database, mine, RunFolder(Path("none")))
    for step in (1, 2, 3):
        told(Stepped(step, 10, 1.0, 1, 1, 1.0, 1.0, 1.0))
    told(Stage("tune-more"))
    monkeypatch.setattr(relay, "EVERY", 0.0)
    told(Stage("and more"))
    job = service.job(job_id)
    assert job.estimated_finish is not None
    queue.release(service.database, mine)
    assert service.job(job_id).estimated_finish is None
    assert "queued" in states.MOVES["running"]
