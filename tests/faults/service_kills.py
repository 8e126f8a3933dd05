#!/usr/bin/env python3
"""Kill the service (SIGKILL) at random moments of many short jobs: API, worker, or the child that trains; then look what came of it.

    python tests/faults/service_kills.py --kills 200 --jobs 20 --database sqlite
    python tests/faults/service_kills.py --kills 200 --jobs 20 --database postgresql          (starts one of its own)
    python tests/faults/service_kills.py --kills 200 --jobs 20 --database postgresql+psycopg://user@host/name

What was killed is started again at once, as a supervisor would. All jobs learn the same rows from the same seed, and one job is left alone
before. In the end: every job that was asked for is there once, succeeded, in the order asked, told each step once, has one model and one
result file, and weights that are byte-equal to those of the job left alone; no slot is taken, no process and no half-written file is left.
Prints a table of kills; exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from luthier.core.files import sha256
from luthier.jobs.processes import MARK
from luthier.jobs.states import OVER
from luthier.security import tenants
from luthier.store import files
from luthier.store.audit import LOCAL, Deputy
from luthier.store.blobs import Blobs
from luthier.store.tables.files import File
from luthier.store.tables.jobs import Job, JobEvent, Worker
from luthier.store.tables.models import TunedModel
from luthier.store.upgrade import open_database

SETTINGS = {
    "quality": "draft",
    "train": {"seed": 5, "epochs": 8, "rows_per_step": 4, "save_every": 2, "validate_every": 5, "patience": 0},
    "evaluate": {"rows": 2, "max_tokens": 4},
}
STEPS = 72
"""36 of 40 rows, 4 at a time, 8 times."""

SLOWEST = 200
"""Moments without any news after which the jobs are taken to hang."""


@dataclass
class Trial:
    """One service with its processes, and what was done to it."""

    home: Path
    url: str
    model: Path
    rows: Path
    dice: random.Random
    api: subprocess.Popen[bytes] | None = None
    worker: subprocess.Popen[bytes] | None = None
    key: str = ""
    port: int = 0
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    ids: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.database = open_database(self.url)
        (self.home / "models").mkdir()
        (self.home / "models" / "tiny").symlink_to(self.model.resolve())
        made = tenants.first_start(self.database)
        assert made is not None, "the database must be empty"
        self.key, self.port = made.secret, _free_port()
        with self.database.read() as session:
            room = session.scalars(select(tenants.Project)).one()
        self.who = Deputy(LOCAL.name, room.organisation_id, room.id)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """`luthier` with this home and database, which does not outlive this process."""
        leash = [found, "--pdeathsig", "KILL"] if (found := shutil.which("setpriv")) else []
        command = [*leash, sys.executable, "-m", "luthier", *arguments]
        env = {**os.environ, "LUTHIER_HOME": str(self.home), "LUTHIER_DATABASE": self.url}
        with open(self.home / f"{arguments[0]}.log", "ab") as log:
            return subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)

    def keep_alive(self, api: bool) -> None:
        """Start what is not running."""
        if api and (self.api is None or self.api.poll() is not None):
            self.api = self.start("serve", "--no-worker", "--port", str(self.port), "--log", "json")
        if self.worker is None or self.worker.poll() is not None:
            self.worker = self.start("worker", "--slot", "cpu=1")

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        with self.database.read() as session:
            return list(session.scalars(select(Job).order_by(Job.n)))

    def steps(self) -> int:
        """Steps told so far, of all jobs."""
        with self.database.read() as session:
            return session.scalar(select(func.count()).where(JobEvent.type == "metrics")) or 0

    def kill(self, victim: str) -> bool:
        """Kill one of the three, if it is there."""
        running = next((job for job in self.jobs() if job.child and job.state not in OVER), None)
        doing = f"{running.state}, {self.stage(running)}" if running else "nothing"
        if victim == "child":
            if running is None or not _is_child(running):
                return False
            with suppress(ProcessLookupError):
                os.killpg(int(running.child or 0), signal.SIGKILL)
                self.kills[victim, doing] += 1
            return True
        process = self.api if victim == "api" else self.worker
        if process is None or process.poll() is not None:
            return False
        process.kill()
        process.wait()
        self.kills[victim, doing] += 1
        return True

    def stage(self, job: Job) -> str:
        """How far its run is."""
        try:
            return str(json.loads((self.home / "runs" / job.run / "state.json").read_text()).get("stage") or "begin")
        except (OSError, ValueError):
            return "start" if job.state == "running" else "files"

    def end(self) -> None:
        """Let the worker leave in good order."""
        for process in (self.api, self.worker):
            if process is not None and process.poll() is None:
                process.terminate()
                process.wait(120)


def _is_child(job: Job) -> bool:
    """Whether the number in the job's row is still that of its child, and not of a stranger."""
    try:
        return f":{job.id}:" in psutil.Process(job.child).environ().get(MARK, "")
    except psutil.Error:
        return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def ask_over_the_wire(trial: Trial, numbers: range) -> None:
    """Make jobs with the real client, which tries again when the service is killed under it."""
    from openai import OpenAI

    client = OpenAI(base_url=f"http://127.0.0.1:{trial.port}/v1", api_key=trial.key, max_retries=100)
    file = client.files.create(file=trial.rows, purpose="fine-tune")
    for number in numbers:
        body: dict[str, Any] = {"luthier": SETTINGS}
        made = client.fine_tuning.jobs.create(model="tiny", training_file=file.id, metadata={"number": str(number)}, extra_body=body)
        trial.ids[number] = made.id
        time.sleep(trial.dice.uniform(0, 0.3))


def ask_directly(trial: Trial, numbers: range) -> None:
    """Make jobs in the database, as `luthier jobs create` does."""
    from luthier.jobs.asked import NewJob
    from luthier.jobs.submit import submit

    os.environ["LUTHIER_HOME"] = str(trial.home)
    stored = Blobs.open(trial.database).put([trial.rows.read_bytes()], most=1 << 30)
    with trial.database.write() as session:
        file = files.add(session, trial.who, stored, filename=trial.rows.name, purpose="fine-tune").id
    for number in numbers:
        body = {"model": "tiny", "training_file": file, "luthier": SETTINGS, "metadata": {"number": str(number)}}
        trial.ids[number] = submit(trial.database, NewJob.read(body), trial.who).id


def leave_alone(trial: Trial, *, api: bool) -> None:
    """One job without a kill, to compare with."""
    trial.keep_alive(api)
    (ask_over_the_wire if api else ask_directly)(trial, range(1))
    while trial.jobs()[0].state not in OVER:
        trial.keep_alive(api)
        time.sleep(0.2)


def run(trial: Trial, *, kills: int, jobs: int, api: bool, pause: float) -> None:
    """So many jobs, with so many kills."""
    ask = ask_over_the_wire if api else ask_directly
    trial.keep_alive(api)
    asking = threading.Thread(target=ask, args=(trial, range(1, jobs + 1)))
    asking.start()
    quiet, latest = 0, ""
    while asking.is_alive() or any(job.state not in OVER for job in trial.jobs()):
        trial.keep_alive(api)
        moment(trial, pause)
        if sum(trial.kills.values()) < kills:
            trial.kill(trial.dice.choice(["child", "worker", *(["api"] if api else [])]))
        now = _news(trial)
        quiet = 0 if now != latest else quiet + 1
        if not quiet:
            latest = now
            print(f"{sum(trial.kills.values()):4} kills  {now}", flush=True)
        if quiet > SLOWEST:
            sys.exit("the jobs hang")
    asking.join()


def moment(trial: Trial, pause: float) -> None:
    """Wait for a random moment: by the clock, or some steps later, so that what comes late in a job is met as well."""
    end = time.monotonic() + trial.dice.uniform(0, 2 * pause)
    steps = trial.steps() + trial.dice.randint(1, 12) if trial.dice.random() < 0.5 else 0
    while time.monotonic() < end or (trial.steps() < steps and time.monotonic() < end + 10 * pause):
        time.sleep(0.05)


def _news(trial: Trial) -> str:
    return f"{dict(Counter(job.state for job in trial.jobs()))}  {trial.steps()} steps"


def wrong(trial: Trial) -> list[str]:
    """Everything that is not as it must be."""
    rows = trial.jobs()
    found = [f"{job.id} is {job.state}: {job.error}" for job in rows if job.state != "succeeded"]
    asked = Counter(job.facts["number"] for job in rows)
    if asked != Counter(map(str, trial.ids)) or {job.id for job in rows} != set(trial.ids.values()):
        found.append(f"asked for {len(trial.ids)} jobs, found {dict(asked)}")
    weights = {sha256(trial.home / "runs" / job.run / "adapter/adapter_model.safetensors") for job in rows if job.state == "succeeded"}
    if len(weights) != 1:
        found.append(f"{len(weights)} different weights")
    started = [job.started_at for job in rows]
    if started != sorted(started, key=lambda moment: moment or 0.0):
        found.append("jobs began in another order than they were asked for")
    with trial.database.read() as session:
        for job in rows:
            found += [f"{job.id} {what}" for what in _wrong_with(session, job)]
        if left := [job.id for job in rows if job.worker_id or job.lease_until or job.child or job.device]:
            found.append(f"slots taken by {left}")
        if workers := list(session.scalars(select(Worker.id))):
            found.append(f"workers that did not leave: {workers}")
    found += [f"left behind: {path}" for path in trial.home.rglob("*") if ".part" in path.name or path.name.endswith(".old")]
    return found + [f"process {process.pid} is left" for process in _left(trial)]


def _wrong_with(session: Any, job: Job) -> Iterator[str]:
    def rows(table: Any, *where: Any) -> list[Any]:
        return list(session.scalars(select(table).where(*where).order_by(table.n)))

    steps = [event.data["step"] for event in rows(JobEvent, JobEvent.job_id == job.id, JobEvent.type == "metrics")]
    if steps != list(range(1, STEPS + 1)):
        yield f"told steps {steps}"
    told = [event.message for event in rows(JobEvent, JobEvent.job_id == job.id, JobEvent.type == "message")]
    if (ends := sum(text.startswith("The job is done") for text in told)) != 1:
        yield f"ended {ends} times"
    models = rows(TunedModel, TunedModel.job_id == job.id)
    if [model.id for model in models if model.step is None] != [job.fine_tuned_model]:
        yield f"has models {[model.id for model in models]}"
    if len(job.result_files) != 1 or not rows(File, File.id.in_(job.result_files)):
        yield f"has result files {job.result_files}"


def _left(trial: Trial) -> Iterator[psutil.Process]:
    """Children of this trial's jobs that are still there; others may run on this machine."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if any(f":{job_id}:" in process.environ().get(MARK, "") for job_id in trial.ids.values()):
                yield process


def table(trial: Trial) -> str:
    """Kills by victim and by what went on."""
    victims = sorted({victim for victim, _ in trial.kills})
    lines = ["| what went on | " + " | ".join(victims) + " |", "|---|" + "---|" * len(victims)]
    for doing in sorted({doing for _, doing in trial.kills}):
        lines.append(f"| {doing} | " + " | ".join(str(trial.kills[victim, doing]) for victim in victims) + " |")
    sums = {victim: sum(count for (who, _), count in trial.kills.items() if who == victim) for victim in victims}
    return "\n".join([*lines, "| all | " + " | ".join(str(sums[victim]) for victim in victims) + " |"])


@contextmanager
def place(database: str) -> Iterator[tuple[Path, str]]:
    """A home of its own, and the address of an empty database."""
    with tempfile.TemporaryDirectory(prefix="luthier-kills-", ignore_cleanup_errors=True) as folder:
        if database == "postgresql":
            sys.path.insert(0, str(Path(__file__).parents[1]))
            from postgres import Cluster

            cluster = Cluster.start()
            try:
                yield Path(folder), cluster.create("kills")
            finally:
                cluster.stop()
        else:
            yield Path(folder), f"sqlite:///{folder}/luthier.db" if database == "sqlite" else database


def write_rows(file: Path) -> Path:
    """Forty rows of two labels."""
    turns = [("Where is my parcel, order {}?", "parcel"), ("I want my money back for {}.", "refund")]
    rows = [{"prompt": turns[i % 2][0].format(i), "completion": turns[i % 2][1]} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a small base")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--database", default="sqlite")
    parser.add_argument("--no-api", action="store_true", help="make jobs in the database; nothing but worker and child is killed")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds between kills, on average")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    began = time.monotonic()
    with place(asked.database) as (home, url):
        trial = Trial(home, url, asked.model, write_rows(home / "rows.jsonl"), random.Random(asked.seed))
        try:
            leave_alone(trial, api=not asked.no_api)
            run(trial, kills=asked.kills, jobs=asked.jobs, api=not asked.no_api, pause=asked.pause)
        finally:
            trial.end()
        found = wrong(trial)
        trial.database.close()
    print(table(trial))
    print(f"{sum(trial.kills.values())} kills, {asked.jobs} jobs and one left alone, {time.monotonic() - began:.0f} s: ", end="")
    print("each ended once, byte-equal" if not found else "\n".join(["WRONG", *found]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
