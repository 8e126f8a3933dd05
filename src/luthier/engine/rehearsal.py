"""The dress rehearsal before a run: the heaviest forest there and back, a checkpoint written and read again, and what all of it will cost.

Nothing of the session changes: no weight is updated, and order and dropout follow from the step.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from luthier.core.errors import ResultError, StorageError
from luthier.core.sequence import Row
from luthier.engine import checkpoint
from luthier.engine.compiling import choose
from luthier.engine.pack import packs
from luthier.engine.probe import heaviest
from luthier.engine.session import Session
from luthier.engine.tree import Pack
from luthier.models.gauge import Gauge, gauge_of
from luthier.models.recompute import recompute

MARGIN = 0.9
"""Share of the available memory a run may plan with: other programs breathe too."""

SMALLEST = 128
"""Forests are not made smaller than this: below it every matmul is too thin to be worth having."""

SMALL = 4
"""Before forests become so many times smaller than usual, blocks are computed again in backward: a third more work, far less memory."""

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
        recompute: whether blocks are computed again in backward. compiled: whether they run compiled.
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
    compiled: bool = False
    compiling: str = ""
    changes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain fields."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.steps:,} steps, about {_span(self.seconds)}; memory up to {_size(self.peak_bytes)} of {_size(self.available_bytes)}; "
            f"disk {_size(self.disk_bytes)} of {_size(self.free_bytes)} free; {self.shared:.0%} of the tokens are shared beginnings."
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
    changes, again = _fit_memory(session, room, gauge)
    heavy, seconds_per_token, peak = _try_heaviest(session, gauge, changes)
    pending = session.optimiser.pending_bytes()
    size = _try_checkpoint(session, folder) + pending
    laid, true = _sizes(session)
    tokens = laid * session.steps + looks * _tokens_of_look(session)
    choice = choose(session, seconds_per_token, tokens, lambda: _try(session, heavy, gauge)[0])
    forecast = Forecast(
        steps=session.steps,
        seconds=choice.seconds_per_token * tokens,
        peak_bytes=peak + pending,
        available_bytes=room,
        disk_bytes=size * (checkpoint.KEPT + 2),
        free_bytes=shutil.disk_usage(folder).free,
        tokens_per_pack=session.budget,
        shared=1 - laid / true,
        recompute=again,
        compiled=choice.compiled,
        compiling=choice.told,
        changes=changes,
    )
    if forecast.disk_bytes > forecast.free_bytes:
        raise StorageError(
            f"The run will write {_size(forecast.disk_bytes)}, but only {_size(forecast.free_bytes)} are free.",
            where=str(folder),
            remedy="Free some space or choose another folder with --out.",
            code="disk_short",
        )
    return forecast


def _fit_memory(session: Session, room: int, gauge: Gauge) -> tuple[list[str], bool]:
    """Forests as large as memory allows, and blocks computed again in backward where forests would be small.

    Returns:
        what was changed, and whether blocks are computed again.
    """
    longest = _tokens(_longest_rows(session, 1)[0])
    changes, again, fits = [], session.train.recompute is True, _fitting(session, room, gauge)
    if fits < max(longest, session.budget // SMALL) and session.train.recompute == "auto":
        recompute(session.model, True)
        changes, again, fits = [f"recompute false -> true, as memory is {_size(room)}."], True, _fitting(session, room, gauge)
    if fits >= session.budget:
        return changes, again
    if fits < longest:
        raise ResultError(
            f"The longest row has {longest:,} tokens, but memory ({_size(room)}) is enough for about {max(fits, 0):,} at once.",
            remedy="Use a smaller model, a smaller model.context with data.too_long: split, or a machine with more memory.",
            code="memory_short",
        )
    before, session.budget = session.budget, max(SMALLEST, fits)
    return [*changes, f"tokens_per_pack {before:,} -> {session.budget:,}, so that the run fits into {_size(room)} of memory."], again


def _fitting(session: Session, room: int, gauge: Gauge) -> int:
    """Tokens of a forest that fits, from two probes of small ones; the usual number where more would."""
    row = packs(_longest_rows(session, 1), session.budget)[0]
    small, larger = row.beginning(SMALLEST), row.beginning(2 * SMALLEST)
    _, base = _try(session, small, gauge)
    _, more = _try(session, larger, gauge)
    per_token = max(more - base, 0) / max(1, len(larger.tokens_T) - len(small.tokens_T))
    return min(session.budget, int((room * MARGIN - base) / per_token)) if per_token > 0 else session.budget


def _longest_rows(session: Session, tokens: int) -> list[Row]:
    """The longest rows of the run, until they hold `tokens` tokens. Looks at the lengths of at most 10,000 rows, evenly spread."""
    stride = max(1, len(session.rows) // 10_000)
    lengths = sorted(((_tokens(session.rows[i]), i) for i in range(0, len(session.rows), stride)), reverse=True)
    chosen: list[Row] = []
    for length, i in lengths:
        chosen.append(session.rows[i])
        tokens -= length
        if tokens <= 0:
            break
    return chosen


def _tokens(row: Row) -> int:
    """Of all its sequences."""
    return sum(len(sequence.tokens) for sequence in row.sequences)


def _heaviest(session: Session) -> Pack:
    """A full forest of the longest rows: more learned tokens and longer attention than any step will see."""
    return max(packs(_longest_rows(session, session.budget), session.budget), key=lambda pack: (len(pack.tokens_T), len(pack.rows_N)))


def _try_heaviest(session: Session, gauge: Gauge, changes: list[str]) -> tuple[Pack, float, int]:
    """`_try` the heaviest forest; where an accelerator's memory gives way all the same, one of half its size."""
    while True:
        heavy = _heaviest(session)
        try:
            return heavy, *_try(session, heavy, gauge)
        except torch.OutOfMemoryError as error:
            session.optimiser.forget()
            before, session.budget = session.budget, len(heavy.tokens_T) // 2
            if session.budget < max(SMALLEST, _tokens(_longest_rows(session, 1)[0])):
                raise ResultError(
                    f"A forest of {len(heavy.tokens_T):,} tokens, the smallest that holds the longest row, does not fit into memory.",
                    remedy="Use a smaller model, a packed base (model.dtype: nf4), or a smaller model.context with data.too_long: split.",
                    code="memory_short",
                ) from error
            changes.append(f"tokens_per_pack {before:,} -> {session.budget:,}: the larger forest did not fit into memory.")


def _try(session: Session, pack: Pack, gauge: Gauge) -> tuple[float, int]:
    """Forward and backward of one forest, twice, and forget the gradient.

    Returns:
        seconds per token of the second time, and the peak of memory in bytes.
    """
    session.model.network.train()
    seconds = 0.0
    gauge.reset()
    for _ in range(2):
        start = time.perf_counter()
        torch.manual_seed(0)
        if len(pack.rows_N):
            loss = session.loss(pack)
            if not torch.isfinite(loss):
                raise ResultError(
                    f"The loss is {loss.item()} before the first step.",
                    remedy="The base model or a row is damaged: `luthier chat` the base, and look at the longest rows.",
                    code="not_finite",
                )
            loss.backward()
            session.optimiser.forget()
        seconds = time.perf_counter() - start
    return seconds / len(pack.tokens_T), gauge.peak()


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
        true.append(sum(map(_tokens, rows)))
    return statistics.fmean(laid), statistics.fmean(true)


def _tokens_of_look(session: Session) -> float:
    """Held-out tokens weighted by what they cost beside a training token: forward only, about a third."""
    if not session.valid:
        return 0.0
    some = [session.valid[i] for i in range(min(len(session.valid), 64))]
    return len(session.valid) / len(some) * sum(len(pack.tokens_T) for pack in packs(some, session.budget)) / 3


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(count, 0) / 2**20:.0f} MiB"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
