"""What a job would cost: reckoned from its rows, its base, and runs of this machine; nothing is made by asking."""

import json
from pathlib import Path

import pytest
from sqlalchemy import func, select

from luthier.core.errors import DataError, NotFound
from luthier.jobs import child, forecast, queue
from luthier.jobs.asked import NewJob
from luthier.jobs.queue import CHECKING
from luthier.store.tables.jobs import Job

from .conftest import SHORT, Service

pytestmark = pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)


def ask(service: Service, file: str, **body: object) -> forecast.Forecast:
    from luthier.jobs import specs

    new = NewJob.read({"model": "tiny", "training_file": file, "luthier": specs.said(SHORT), **body})
    return forecast.forecast(service.database, service.blobs, new, service.who, price_per_hour=3.6, currency="CHF")


def test_a_forecast_of_a_fresh_machine_says_that_it_is_a_rule_of_thumb(service: Service, rows: Path, home: Path) -> None:
    found = ask(service, service.upload(rows))
    assert (found.rows + found.held_out, found.steps, found.basis, found.fits) == (40, 6, "rule of thumb", True)
    assert found.seconds >= forecast.BESIDE
    assert found.price == pytest.approx(found.seconds / 1000, rel=0.01)
    assert found.currency == "CHF"
    assert forecast.PROGRAM < found.memory_bytes < found.available_bytes
    assert 0 < found.disk_bytes < 100e6
    with service.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Job)) == 0
    assert not list((home / "inputs").iterdir()), "nothing is left behind"


def test_more_passes_take_more_and_a_run_of_this_base_is_the_better_witness(service: Service, rows: Path, home: Path) -> None:
    file = service.upload(rows)
    job_id = service.submit(file).id
    for device in (CHECKING, "cpu"):
        mine = queue.claim(service.database, worker_id="worker_a", device=device)
        assert mine is not None
        child.work(service.database, service.blobs, mine)
    once, twice = (ask(service, file, luthier={"train": {"epochs": epochs, "rows_per_step": 4, "seed": 3}}) for epochs in (5, 10))
    assert once.basis == "runs of this base"
    assert (twice.tokens, twice.steps) == (2 * once.tokens, 2 * once.steps)
    steps = [json.loads(line) for line in (home / "runs" / job_id / "steps.jsonl").read_text().splitlines()]
    steps = [step for step in steps if step["kind"] == "stepped"][1:]
    rate = sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps)
    assert twice.seconds - once.seconds == pytest.approx(once.tokens / rate, rel=0.5), "what one more pass takes at that speed"
    full = ask(service, file, luthier={"method": {"name": "full"}})
    assert (full.basis, full.disk_bytes > once.disk_bytes) == ("a run of another base", True)


def test_what_would_not_run_is_refused_as_a_job_is(service: Service, rows: Path, home: Path) -> None:
    with pytest.raises(NotFound, match="There is no file"):
        ask(service, "file-none")
    rows.write_text(rows.read_text().replace('"assistant"', '"nobody"', 1))
    with pytest.raises(DataError, match=r"mine\.jsonl: .*\n.*row 1 messages") as refused:
        ask(service, service.upload(rows, name="mine.jsonl"))
    assert refused.value.where == "training_file"
    assert str(home) not in refused.value.what
