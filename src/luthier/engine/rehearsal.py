"""The dress rehearsal before a run: the heaviest forest there and back, a checkpoint written and read again, and what all of it will cost.

Nothing of the session changes: no weight is updated, and order and dropout follow from the step.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from luthier.core.errors import ResultError, StorageError
from luthier.engine import checkpoint
from luthier.engine.compiling import choose
from luthier.engine.fit import fit_memory, size_of, tokens_of, try_forest, try_heaviest
from luthier.engine.pack import packs
from luthier.engine.probe import heaviest
from luthier.engine.session import Session
from luthier.models.gauge import Gauge, gauge_of

SAMPLED_STEPS = 8
"""Steps looked at for the forecast of time."""


@dataclass(slots=True, frozen=True)
class Forecast:
    """What the run will cost, and what was changed so that it fits.

    Attributes:
        steps: optimiser steps. seconds: whole training, held-out looks included, evaluation not.
        peak_bytes: largest memory of the process. available_bytes: what it could have.
        disk_bytes: checkpoints and result together. free_bytes: room in the run's folder.
        tokens_per_pack: forest size chosen. shared: share of the true tokens that need not be computed because rows begin alike.
        recompute, offload: whether blocks are computed again in backward, and their states wait in main memory.
        compiled: whether blocks run compiled.
        compiling: why, where there was a choice. changes: sentences, one for each thing changed.
    """

    steps: int
    seconds: float
    peak_bytes: int
    available_bytes: int
    disk_bytes: int
    free_bytes: int
    tokens_per_pack: int
    shared: float
    recompute: bool = False
    offload: bool = False
    compiled: bool = False
    compiling: str = ""
    changes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain fields."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.steps:,} steps, about {_span(self.seconds)}; "
            f"memory up to {size_of(self.peak_bytes)} of {size_of(self.available_bytes)}; "
            f"disk {size_of(self.disk_bytes)} of {size_of(self.free_bytes)} free; {self.shared:.0%} of the tokens are shared beginnings."
        )


def rehearse(
    session: Session,
    *,
    folder: Path,
    looks: int = 0,
    gauge: Gauge | None = None,
) -> Forecast:
    """Try everything a run will do once, before anything is spent.

    Args:
        folder: where the run will write; a temporary folder in it is used and removed.
        looks: held-out evaluations planned during the run.
        gauge: of the memory it must fit into; that of the model's device if left out.

    Raises:
        ResultError: the longest row does not fit into memory; the loss is not finite; a checkpoint does not come back equal.
        StorageError: the folder cannot be written or has too little room.
    """
    gauge = gauge or gauge_of(session.model.device)
    room = gauge.free() + gauge.taken()
    _, forests = heaviest(session.rows, session.train, session.step_budget, parts=session.team.size)
    session.optimiser.expect(forests)
    changes, keeping = fit_memory(session, room, gauge)
    heavy, seconds_per_token, peak = try_heaviest(session, gauge, changes)
    pending = session.optimiser.pending_bytes()
    size = _try_checkpoint(session, folder) + pending
    laid, true = _sizes(session)
    tokens = laid * session.steps + looks * _tokens_of_look(session)
    choice = choose(session, seconds_per_token, tokens, lambda: try_forest(session, heavy, gauge)[0])
    forecast = Forecast(
        steps=session.steps,
        seconds=choice.seconds_per_token * tokens,
        peak_bytes=peak + pending,
        available_bytes=room,
        disk_bytes=size * (checkpoint.KEPT + 2),
        free_bytes=shutil.disk_usage(folder).free,
        tokens_per_pack=session.budget,
        shared=1 - laid / true,
        recompute=keeping.recompute,
        offload=keeping.offload,
        compiled=choice.compiled,
        compiling=choice.told,
        changes=changes,
    )
    if forecast.disk_bytes > forecast.free_bytes:
        raise StorageError(
            f"The run will write {size_of(forecast.disk_bytes)}, but only {size_of(forecast.free_bytes)} are free.",
            where=str(folder),
            remedy="Free some space or choose another folder with --out.",
            code="disk_short",
        )
    return forecast


def _try_checkpoint(session: Session, folder: Path) -> int:
    """Write a checkpoint, read it back, compare; returns its bytes."""
    weights, optimiser = session.method.state(session.model), session.optimiser.state()
    with tempfile.TemporaryDirectory(prefix=".rehearsal-", dir=folder) as place:
        written = checkpoint.save(Path(place), weights=weights, optimiser=optimiser, progress=checkpoint.Progress(step=session.step))
        loaded = checkpoint.load(written)
        for kind, wanted, got in (("weight", weights, loaded.weights), ("optimiser value", optimiser, loaded.optimiser)):
            for name, tensor in wanted.items():
                if not torch.equal(tensor.cpu(), got[name]):
                    raise ResultError(
                        f"The {kind} {name} does not come back from disk as it was.", where=str(folder), remedy="Check the disk."
                    )
        return sum(file.stat().st_size for file in written.iterdir())


def _sizes(session: Session) -> tuple[float, float]:
    """Mean laid-out and true tokens of a step, from some steps spread over the run."""
    chosen = range(0, session.steps, max(1, session.steps // SAMPLED_STEPS))
    laid, true = [], []
    for step in list(chosen)[:SAMPLED_STEPS]:
        rows = [session.rows[i] for i in session.order.rows(step)]
        laid.append(sum(len(pack.tokens_T) for pack in packs(rows, session.budget)))
        true.append(sum(map(tokens_of, rows)))
    return statistics.fmean(laid), statistics.fmean(true)


def _tokens_of_look(session: Session) -> float:
    """Held-out tokens weighted by what they cost beside a training token: forward only, about a third."""
    if not session.valid:
        return 0.0
    some = [session.valid[i] for i in range(min(len(session.valid), 64))]
    return len(session.valid) / len(some) * sum(len(pack.tokens_T) for pack in packs(some, session.budget)) / 3


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
