"""From the events of a run to the rows of its job: written every second or so, each step and each message once.

A run that goes on after a kill takes some steps again and says some things again. What is recorded already is passed over; what the kill
kept from being recorded is read from the run's own files. So the list of events is that of one undisturbed run, and never shrinks.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from luthier.core.errors import StorageError
from luthier.core.events import Event, Note, Stage, Stepped
from luthier.core.spec import Spec
from luthier.jobs import names, specs
from luthier.jobs.metrics import Steps
from luthier.jobs.queue import Claim, Taken, fenced
from luthier.store import ids
from luthier.store.database import Database
from luthier.store.runs import RunFolder
from luthier.store.tables._base import Facts
from luthier.store.tables.jobs import Checkpoint, Job, JobEvent
from luthier.store.tables.models import TunedModel

EVERY = 1.0
"""Seconds between two writings: a list that is followed looks alive, and a step is never held up by the database for long."""

TAIL = 1.1
"""Training, times this, is the whole job: what follows (answering the held-out rows, certificate, report) is a guess."""

LEVELS = {"warning": "warn", "error": "error"}


class Relay:
    """The listener of a job's run.

    Args:
        mine: in whose name it writes. run: the run's folder.

    Attributes:
        waiting: rows of events that are not written yet. recorded: steps that are, or wait. passes: steps whose weights have rows.
    """

    def __init__(self, database: Database, mine: Claim, run: RunFolder) -> None:
        self.database, self.mine, self.run = database, mine, run
        self.steps = Steps(run.steps)
        self.waiting: list[dict[str, Any]] = []
        self.passes: list[int] = []
        self.wrote = time.monotonic()
        self.began: tuple[int, float] | None = None
        self.finish: float | None = None
        self.spec: Spec | None = None
        with database.read() as session:
            self.told = set(session.scalars(select(JobEvent.message).where(JobEvent.job_id == mine.job_id, JobEvent.type == "message")))
            metrics = select(func.count()).where(JobEvent.job_id == mine.job_id, JobEvent.type == "metrics")
            self.recorded = session.scalar(metrics) or 0

    def __call__(self, event: Event) -> None:
        """Hear an event of the run.

        Raises:
            Taken: the job has another holder; this run must end.
        """
        if self.began and isinstance(event, Stage | Note):
            self._read(last=True)  # nothing is told between a step and its look: this comes after both
        match event:
            case Stage():
                if event.name == "tune":
                    self.spec = specs.load(self.run.spec)  # every number is derived by now
                self.say(f"{event.name}: {event.detail}" if event.detail else event.name)
            case Note():
                self.say(event.text, LEVELS.get(event.level, "info"))
            case Stepped():
                self._reckon(event)
        if time.monotonic() - self.wrote > EVERY:
            self._write_if_possible()

    def say(self, text: str, level: str = "info") -> None:
        """A message, if it was not said before."""
        if text not in self.told:
            self.told.add(text)
            self.waiting.append({"level": level, "type": "message", "message": text})

    def write(self, session: Session, job: Job, *, last: bool = False) -> None:
        """Put what waits into the transaction of `session`; `forget` it once that is kept. `last`: the run is over."""
        if self.began or last:  # before its first step a run may still take back steps of the run before it
            self._read(last=last)
        session.add_all(JobEvent(id=ids.new("ftevent-"), job_id=job.id, **row) for row in self.waiting)
        if any(row["type"] == "metrics" for row in self.waiting):
            job.attempts = 0
        job.estimated_finish = self.finish
        if self.spec is not None:
            _show_numbers(job, self.spec)
        if self.began or last:
            self._checkpoints(session, job)

    def close(self) -> None:
        """Write what waits, if that can be done now."""
        with suppress(StorageError):
            self._write_if_possible()

    def forget(self) -> None:
        """What waited is written."""
        self.waiting.clear()

    def _read(self, *, last: bool) -> None:
        for step in self.steps.fresh(last=last):
            self._measured(step)

    def _measured(self, step: dict[str, Any]) -> None:
        if step["step"] > self.recorded:
            self.recorded = step["step"]
            told = {key: value for key, value in step.items() if key != "tokens"}
            self.waiting.append({"level": "info", "type": "metrics", "message": _sentence(step), "data": told})

    def _checkpoints(self, session: Session, job: Job) -> None:
        """Give every pass whose weights lie in the run's folder, and whose numbers are known, its rows; forget those that went."""
        passes = [step for step in self.run.kept_passes() if step <= self.recorded]
        if passes == self.passes:
            return
        session.flush()
        model = names.tuned_model(session, job)
        stay = {names.checkpoint(model, step): step for step in passes}
        session.execute(delete(Checkpoint).where(Checkpoint.job_id == job.id, Checkpoint.model_id.not_in(stay)))
        session.execute(delete(TunedModel).where(TunedModel.job_id == job.id, TunedModel.step.is_not(None), TunedModel.id.not_in(stay)))
        known = set(session.scalars(select(Checkpoint.model_id).where(Checkpoint.job_id == job.id)))
        for name, step in stay.items():
            if name not in known:
                metrics = _metrics(session, job, step)
                session.add(Checkpoint(id=ids.new("ftckpt_"), job_id=job.id, model_id=name, step=step, metrics=metrics))
                session.add(tuned_row(job, name, f"{self.run.passes.name}/step-{step:06d}", step=step))
        self.passes = passes

    def _write_if_possible(self) -> None:
        """What cannot be written now waits: a busy database must not end a training."""
        self.wrote = time.monotonic()
        try:
            with fenced(self.database, self.mine) as (session, job):
                self.write(session, job)
            self.forget()
        except Taken:
            raise
        except StorageError:
            pass

    def _reckon(self, event: Stepped) -> None:
        """When the job will be done, from the pace since this process began to train."""
        now = time.time()
        self.began = self.began or (event.step, now)
        first, since = self.began
        if event.step > first:
            self.finish = now + TAIL * (event.of - event.step) * (now - since) / (event.step - first)


def _sentence(step: dict[str, Any]) -> str:
    held_out = f", held-out loss {step['valid_loss']:.4f}" if "valid_loss" in step else ""
    return f"Step {step['step']} of {step['total_steps']}: training loss {step['train_loss']:.4f}{held_out}"


def _show_numbers(job: Job, spec: Spec) -> None:
    """Put derived numbers in the place of every "auto" the job shows."""
    derived: Facts = {
        "n_epochs": max(1, round(float(spec.train.epochs))),
        "batch_size": spec.train.rows_per_step,
        "learning_rate_multiplier": 1.0,
    }
    derived |= {"beta": spec.objective.options.get("beta")} if "beta" in job.hyperparameters else {}
    job.hyperparameters = {key: derived[key] if value == "auto" else value for key, value in job.hyperparameters.items()}
    kind = job.method["type"]
    job.method = {"type": kind, kind: {"hyperparameters": job.hyperparameters}}


def _metrics(session: Session, job: Job, step: int) -> Facts:
    """The numbers of a step: each has one event, in order."""
    query = select(JobEvent.data).where(JobEvent.job_id == job.id, JobEvent.type == "metrics").order_by(JobEvent.n)
    return {key: value for key, value in (session.scalar(query.offset(step - 1).limit(1)) or {}).items() if key != "total_steps"}


def tuned_row(job: Job, name: str, folder: str, *, step: int | None = None) -> TunedModel:
    """The row of a model that came out of a job."""
    facts: dict[str, Any] = {"base": job.spec["model"]["name"], "method": job.spec["method"]["name"], "run": job.run}
    return TunedModel(id=name, project_id=job.project_id, job_id=job.id, folder=folder, step=step, **facts)
