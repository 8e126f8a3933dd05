"""What a job would cost, before it is made: time, memory, disk, money.

Memory is weighed part by part, as a run does it before it begins (`jobs.planning`). Time is the tokens to read, divided by the speed of
earlier runs on this machine with the same base and method; failing that, of the newest run, by the ratio of weights; failing that, by a
rule of thumb, and then it says so. Nothing is loaded and nothing trained.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from luthier.core.errors import LuthierError
from luthier.core.home import home, runs_folder
from luthier.core.spec import Spec
from luthier.engine import checkpoint
from luthier.engine.fit import MARGIN
from luthier.jobs import inputs, specs
from luthier.jobs.asked import NewJob
from luthier.jobs.planning import Planned, plan_of
from luthier.jobs.submit import draft, files_of
from luthier.jobs.training import PASSES_KEPT
from luthier.models.machine import memory
from luthier.store.audit import Who
from luthier.store.blobs import Blobs
from luthier.store.database import Database
from luthier.store.runs import RunFolder, listed

PROGRAM = 500_000_000
"""Bytes of a child with its libraries, before it loads anything; as models/catalog.py has it."""

LOOKED_AT = 50
"""Newest runs whose speed is read; the middle of those that fit is taken."""

FLOPS = 6
"""Of one weight and one token: two forward, four backward. An adapter saves half of the latter, which its own work takes up in part."""

CORE_RATE, CARD_RATE = 100e9, 30e12
"""Operations a second where no run tells: half of what a core with AVX512-BF16 was seen to do in matmuls, and a tenth of what makers of
large cards promise. Either may be off by a factor of three."""

LOOK = 1 / 3
"""A held-out look goes forward only."""

BESIDE = 30.0
"""Seconds for start, rehearsal, answers and report where no run tells."""

Basis = Literal["runs of this base", "a run of another base", "rule of thumb"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a job would take.

    Attributes:
        rows, held_out: rows that are learned, and that are not. tokens: to be read in all passes. steps: optimiser steps.
        seconds: from its turn to its end. basis: what that was reckoned from.
        memory_bytes: highest. available_bytes: free on this machine now. fits: whether it can be done here; `remedy` says what could.
        disk_bytes: of the run's folder. price: in `currency`; 0 where no price of an hour was set.
    """

    rows: int
    held_out: int
    tokens: int
    steps: int
    seconds: float
    basis: Basis
    memory_bytes: int
    available_bytes: int
    fits: bool
    remedy: str
    disk_bytes: int
    price: float
    currency: str

    def to_json(self) -> dict[str, Any]:
        """Plain fields."""
        return asdict(self)


def forecast(database: Database, blobs: Blobs, new: NewJob, who: Who, *, price_per_hour: float = 0.0, currency: str = "EUR") -> Forecast:
    """What the job that `new` asks for would take. Its files are read and checked for that, which takes as long as they are large.

    Raises:
        SpecError, NotFound: as `submit`. DataError: the rows do not pass; the message names them.
    """
    job = draft(new, who)
    with database.read() as session:
        files_of(session, job)
    try:
        with inputs.placed(database, blobs, job) as given:
            try:
                planned = plan_of(inputs.spec_of(job, given), available=int(MARGIN * memory()[1]), program=PROGRAM)
            except LuthierError as error:
                told, kind = given.error(error), next(kind for kind in type(error).__mro__ if kind.__module__ == LuthierError.__module__)
                raise kind(told["message"], where=told["param"] or "", code=told["code"]) from error
    finally:
        shutil.rmtree(home() / "inputs" / job.id, ignore_errors=True)
    return _forecast(planned, price_per_hour=price_per_hour, currency=currency)


def _forecast(planned: Planned, *, price_per_hour: float, currency: str) -> Forecast:
    train, need, plan = planned.spec.train, planned.plan.taken or planned.plan.weighed[-1], planned.plan
    steps = int(train.max_steps)
    tokens = round(planned.tokens / max(planned.rows, 1) * min(steps * int(train.rows_per_step), float(train.epochs) * planned.rows))
    seconds, basis = _seconds(planned, tokens, steps)
    return Forecast(
        rows=planned.rows,
        held_out=planned.held_out,
        tokens=tokens,
        steps=steps,
        seconds=round(seconds, 1),
        basis=basis,
        memory_bytes=need.peak,
        available_bytes=plan.available,
        fits=plan.taken is not None,
        remedy=" Or: ".join(plan.nearest),
        disk_bytes=(need.trained + need.moments) * (checkpoint.KEPT + 1) + need.trained * (PASSES_KEPT + 2),
        price=round(seconds / 3600 * price_per_hour, 4),
        currency=currency,
    )


def _seconds(planned: Planned, tokens: int, steps: int) -> tuple[float, Basis]:
    """Time of a whole job, and from what it was told."""
    looks = steps // int(planned.spec.train.validate_every)
    mean = tokens / max(1.0, float(planned.spec.train.epochs) * planned.rows)
    computed = tokens + LOOK * looks * planned.held_out * mean
    known = list(islice(_paces(), LOOKED_AT))
    same = [pace for pace in known if (pace.model, pace.method) == _kind(planned.spec)]
    if same or known:
        found = same or known[:1]
        share = 1.0 if same else inputs.parameters(found[0].place) / planned.parameters
        beside = [pace.beside for pace in found if pace.beside]
        rate = share * statistics.median(pace.rate for pace in found)
        basis: Basis = "runs of this base" if same else "a run of another base"
        return computed / rate + (statistics.median(beside) if beside else BESIDE), basis
    cards = len(list(Path("/dev").glob("nvidia[0-9]*")))
    power = CARD_RATE if cards else CORE_RATE * (os.cpu_count() or 1)
    return FLOPS * planned.parameters * computed / power + BESIDE, "rule of thumb"


@dataclass(frozen=True, slots=True)
class _Pace:
    """How fast one run was.

    Attributes:
        place: what its Spec calls the base; model: the last part of that. rate: tokens a second while it took steps.
        beside: seconds for everything else; 0 where it was interrupted and nobody knows.
    """

    place: str
    model: str
    method: str
    rate: float
    beside: float


def _paces() -> Iterator[_Pace]:
    """Speeds of the runs of this machine, newest first. A run that cannot be read tells nothing."""
    for run in sorted(listed(), key=lambda run: run.path.stat().st_mtime, reverse=True) if runs_folder().is_dir() else ():
        try:
            pace = _pace(run)
        except (LuthierError, OSError, ValueError, KeyError):
            continue
        if pace is not None:
            yield pace


def _pace(run: RunFolder) -> _Pace | None:
    if not run.steps.is_file() or run.state()["state"] != "succeeded":
        return None
    lines = [json.loads(line) for line in run.steps.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if line["kind"] == "stepped"]
    seconds, tokens = sum(step["seconds"] for step in steps[1:]), sum(step["tokens"] for step in steps[1:])  # the first one compiles
    if not seconds:
        return None
    spec = specs.load(run.spec)
    whole = run.report.stat().st_mtime - run.data.stat().st_mtime
    interrupted = whole > 3 * seconds + 10 * BESIDE
    return _Pace(spec.model.name, *_kind(spec), tokens / seconds, 0.0 if interrupted else max(0.0, whole - seconds))


def _kind(spec: Spec) -> tuple[str, str]:
    return Path(spec.model.name).name, spec.method.name
