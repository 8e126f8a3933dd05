#!/usr/bin/env python3
"""The database under load: eight processes that create and update a thousand jobs, and one page out of a hundred thousand.

    python bench/store.py                 # SQLite, and PostgreSQL where it is installed
    python bench/store.py --smoke

Every process opens the database by itself, as API processes and workers do. A write is one transaction with its audit row: a job created,
claimed, or finished. PostgreSQL runs in a cluster of its own with fsync on, as in service.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent / "tests")]

from sqlalchemy import insert, select, text  # noqa: E402

from luthier.security import tenants  # noqa: E402
from luthier.store import audit, ids  # noqa: E402
from luthier.store.database import Database  # noqa: E402
from luthier.store.pages import page  # noqa: E402
from luthier.store.tables.jobs import Job  # noqa: E402
from luthier.store.upgrade import open_database  # noqa: E402
from postgres import Cluster, NoPostgres  # noqa: E402

RESULTS = HERE / "results" / "store.json"


def a_job(project: str) -> dict[str, Any]:
    """A job as the wire would make it, of about a kilobyte."""
    spec = {"model": "luthier-mini", "data": {"file": "file-" + "x" * 21}, "train": {"epochs": 3, "rows_per_step": 16}, "notes": "n" * 600}
    return {
        "id": ids.new("ftjob-"),
        "project_id": project,
        "state": "queued",
        "model": "luthier-mini",
        "training_file": "file-" + "x" * 21,
        "seed": 7,
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}},
        "spec": spec,
        "request_digest": ids.new(""),
    }


def work(url: str, project: str, jobs: int, report: Any) -> None:
    """Create and update `jobs` jobs; tell how long each write took, and what failed."""
    database = Database.connect(url)
    seconds, failures = [], []
    for _ in range(jobs):
        fields = a_job(project)
        for step in ("create", "claim", "finish"):
            began = time.perf_counter()
            try:
                with database.write() as session:
                    if step == "create":
                        session.add(Job(**fields))
                    else:
                        job = session.scalars(select(Job).where(Job.id == fields["id"]).with_for_update()).one()
                        job.state, job.token = ("running", job.token + 1) if step == "claim" else ("succeeded", job.token)
                    audit.record(session, audit.LOCAL, f"job.{step}", fields["id"])
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}")
            seconds.append(time.perf_counter() - began)
    database.close()
    report.put((seconds, failures))


def write(url: str, project: str, *, processes: int, jobs: int) -> dict[str, Any]:
    """All processes at once; `jobs` among them."""
    context = multiprocessing.get_context("spawn")
    report = context.Queue()
    children = [context.Process(target=work, args=(url, project, jobs // processes, report)) for _ in range(processes)]
    began = time.perf_counter()
    for child in children:
        child.start()
    found = [report.get() for _ in children]
    for child in children:
        child.join()
    wall = time.perf_counter() - began
    seconds = sorted(second for times, _ in found for second in times)
    failures = [failure for _, failed in found for failure in failed]
    return {
        "processes": processes,
        "writes": len(seconds),
        "failures": len(failures),
        "first_failures": failures[:3],
        "wall_seconds": round(wall, 2),
        "write_ms": {"median": _ms(statistics.median(seconds)), "p99": _ms(seconds[int(0.99 * len(seconds))]), "most": _ms(seconds[-1])},
    }


def read(database: Database, project: str, *, jobs: int, times: int) -> dict[str, Any]:
    """Pages of 100 at the beginning, in the middle and at the end of a list of `jobs` jobs; every sixth is another project's."""
    with database.write() as session:
        beside = tenants.create_project(session, audit.LOCAL, tenants.every(session, tenants.Organisation)[0].id, "beside").id
        for start in range(0, jobs, 5000):
            here = [a_job(beside if number % 6 == 0 else project) for number in range(6 * min(5000, jobs - start) // 5)]
            session.execute(insert(Job), here)
    with database.engine.connect() as connection:
        connection.execute(text("ANALYZE"))
        connection.commit()
    with database.read() as session:
        every = list(session.scalars(select(Job.id).where(Job.project_id == project).order_by(Job.n.desc())))
    found = {}
    for place, after in {"first": "", "middle": every[len(every) // 2], "last": every[-101]}.items():
        seconds = []
        for _ in range(times):
            began = time.perf_counter()
            with database.read() as session:
                got = page(session, Job, Job.project_id == project, after=after, limit=100)
            seconds.append(time.perf_counter() - began)
            assert len(got.rows) == 100
        found[place] = {"median": _ms(statistics.median(seconds)), "most": _ms(max(seconds))}
    return {"jobs": len(every), "page": 100, "page_ms": found}


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 2)


@contextmanager
def places() -> Iterator[dict[str, str]]:
    """An empty database of each kind there is."""
    cluster = None
    with tempfile.TemporaryDirectory() as folder:
        found = {"sqlite": f"sqlite:///{folder}/luthier.db"}
        try:
            cluster = Cluster.start(careless=False)
            found["postgresql"] = cluster.create("bench")
        except NoPostgres as reason:
            print(f"postgresql left out: {reason}")
        try:
            yield found
        finally:
            if cluster:
                cluster.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="everything once at the smallest size; nothing is kept")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    processes, jobs, listed, times = (2, 8, 200, 2) if options.smoke else (8, 1000, 100_000, 20)
    result: dict[str, Any] = {"machine": f"{os.cpu_count()} x {platform.machine()}", "python": platform.python_version()}
    with places() as urls:
        for kind, url in urls.items():
            database = open_database(url)
            made = tenants.first_start(database)
            assert made is not None
            project = made.key.project_id
            result[kind] = {"write": write(url, project, processes=processes, jobs=jobs)}
            result[kind]["list"] = read(database, project, jobs=listed, times=times)
            database.close()
            print(kind, json.dumps(result[kind], indent=1))
    if not options.smoke:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(any(result[kind]["write"]["failures"] for kind in urls))


if __name__ == "__main__":
    main()
