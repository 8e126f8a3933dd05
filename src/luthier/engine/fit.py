"""Forests as large as memory allows, found by trying; before they become small, blocks keep less for backward."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from luthier.core.errors import ResultError
from luthier.core.sequence import Row
from luthier.engine.pack import packs
from luthier.engine.session import Session
from luthier.engine.tree import Pack
from luthier.models.gauge import Gauge
from luthier.models.recompute import recompute

MARGIN = 0.9
"""Share of the available memory a run may plan with: other programs breathe too."""

SMALLEST = 128
"""Forests are not made smaller than this: below it every matmul is too thin to be worth having."""

SMALL = 4
"""Before forests become so many times smaller than usual, blocks are computed again in backward: a third more work, far less memory."""

OFFLOADS = frozenset({"cuda"})
"""Devices whose memory is not main memory."""


@dataclass(slots=True, frozen=True)
class Keeping:
    """Whether blocks are computed again in backward, and whether their states wait in main memory."""

    recompute: bool
    offload: bool


def fit_memory(session: Session, room: int, gauge: Gauge) -> tuple[list[str], Keeping]:
    """Forests as large as memory allows; before they become small, blocks keep less, the cheaper way first.

    Returns:
        what was changed, and what blocks keep.
    """
    longest, changes = tokens_of(_longest_rows(session, 1)[0]), list[str]()
    if session.train.offload is True and session.model.device.type not in OFFLOADS:
        changes.append("offload true -> false: here the model computes in main memory.")
    before = None
    for way in _ways(session):
        recompute(session.model, way.recompute, offload=way.offload)
        fits = _fitting(session, room, gauge)
        if before is not None:
            name = "offload" if before.recompute else "recompute"
            changes.append(f"{name} false -> true, as memory is {size_of(room)}.")
        if fits >= max(longest, session.budget // SMALL):
            break
        before = way
    if fits >= session.budget:
        return changes, way
    if fits < longest:
        raise ResultError(
            f"The longest row has {longest:,} tokens, but memory ({size_of(room)}) is enough for about {max(fits, 0):,} at once.",
            remedy="Use a smaller model, a smaller model.context with data.too_long: split, or a machine with more memory.",
            code="memory_short",
        )
    usual_budget, session.budget = session.budget, max(SMALLEST, fits)
    return [*changes, f"tokens_per_pack {usual_budget:,} -> {session.budget:,}, so that the run fits into {size_of(room)} of memory."], way


def _ways(session: Session) -> list[Keeping]:
    """What the Spec leaves open, the cheapest first."""
    train = session.train
    elsewhere = session.model.device.type in OFFLOADS
    offload = {"auto": [False, True], True: [True], False: [False]}[train.offload] if elsewhere else [False]
    again = {"auto": [False, True], True: [True], False: [False]}[train.recompute]
    ways = [Keeping(way, way and away) for way in again for away in offload]
    return list(dict.fromkeys(ways))


def _fitting(session: Session, room: int, gauge: Gauge) -> int:
    """Tokens of a forest that fits, from two probes of small ones; the usual number where more would."""
    row = packs(_longest_rows(session, 1), session.budget)[0]
    small, larger = row.beginning(SMALLEST), row.beginning(2 * SMALLEST)
    _, base = try_forest(session, small, gauge)
    _, more = try_forest(session, larger, gauge)
    per_token = max(more - base, 0) / max(1, len(larger.tokens_T) - len(small.tokens_T))
    return min(session.budget, int((room * MARGIN - base) / per_token)) if per_token > 0 else session.budget


def _longest_rows(session: Session, tokens: int) -> list[Row]:
    """The longest rows of the run, until they hold `tokens` tokens. Looks at the lengths of at most 10,000 rows, evenly spread."""
    stride = max(1, len(session.rows) // 10_000)
    lengths = sorted(((tokens_of(session.rows[i]), i) for i in range(0, len(session.rows), stride)), reverse=True)
    chosen: list[Row] = []
    for length, i in lengths:
        chosen.append(session.rows[i])
        tokens -= length
        if tokens <= 0:
            break
    return chosen


def tokens_of(row: Row) -> int:
    """Of all its sequences."""
    return sum(len(sequence.tokens) for sequence in row.sequences)


def _heaviest(session: Session) -> Pack:
    """A full forest of the longest rows: more learned tokens and longer attention than any step will see."""
    return max(packs(_longest_rows(session, session.budget), session.budget), key=lambda pack: (len(pack.tokens_T), len(pack.rows_N)))


def try_heaviest(session: Session, gauge: Gauge, changes: list[str]) -> tuple[Pack, float, int]:
    """`try_forest` the heaviest forest; where an accelerator's memory gives way all the same, one of half its size."""
    while True:
        heavy = _heaviest(session)
        try:
            return heavy, *try_forest(session, heavy, gauge)
        except torch.OutOfMemoryError as error:
            session.optimiser.forget()
            before, session.budget = session.budget, len(heavy.tokens_T) // 2
            if session.budget < max(SMALLEST, tokens_of(_longest_rows(session, 1)[0])):
                raise ResultError(
                    f"A forest of {len(heavy.tokens_T):,} tokens, the smallest that holds the longest row, does not fit into memory.",
                    remedy="Use a smaller model, a packed base (model.dtype: nf4), or a smaller model.context with data.too_long: split.",
                    code="memory_short",
                ) from error
            changes.append(f"tokens_per_pack {before:,} -> {session.budget:,}: the larger forest did not fit into memory.")


def try_forest(session: Session, pack: Pack, gauge: Gauge) -> tuple[float, int]:
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


def size_of(count: float) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{max(count, 0) / 2**20:.0f} MiB"
