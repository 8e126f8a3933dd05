"""What an objective wants to know of every row before the first step: computed once by the untouched base, kept in the cache.

The reference of a preference objective is the base's log-probability of each learned token. The base is at hand whatever the method:
one that cannot be switched off answers as the base until the first step. Runs on the same rows and base share what was found. Where a
method lets nothing in the network move (it supports "still"), the states themselves are kept and the network is not run again: a head
trains on them in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from luthier.core.events import Listener, Progress, Stage
from luthier.core.files import fingerprint, new_folder, sha256
from luthier.core.home import cache_folder
from luthier.core.sequence import Rows
from luthier.core.spec import Spec
from luthier.data.tokens import TokenTable
from luthier.engine.beside import Beside, Blank, observed
from luthier.engine.forest import STATE, Forest
from luthier.engine.order import Order
from luthier.jobs import capsule, heads, specs
from luthier.models.model import Model

if TYPE_CHECKING:
    from luthier.jobs.training import Training

READS: dict[str, tuple[str, Callable[[Forest], Tensor]]] = {
    "reference": ("what the base thinks of every answer, once", Forest.logprobs),
    STATE: ("what the base makes of every row, once: nothing in it moves", lambda forest: forest.states_ND),
}
"""By name, what is told of it, and how it is read from a forest."""

Role = Literal["training", "held-out"]

VERSION = 1
"""Raised when the same model gives other numbers than before: what is kept is then found anew."""


def compute(work: Training, *, listen: Listener) -> None:
    """Find what is not in the cache yet; must be called before any weight moves.

    Raises:
        StorageError: the cache cannot be written.
    """
    for name in needed(work.spec):
        listen(Stage(name, READS[name][0]))
        roles: dict[Role, TokenTable] = {"training": work.data.rows, "held-out": work.data.valid}
        for role, table in roles.items():
            wanted, folder = _wanted(work.spec, table, role), _folder(work.spec, table, role, work.model)
            if len(wanted) and not folder.is_dir():
                told = partial(_told, listen, name, len(wanted))
                with new_folder(folder) as part, _as_base(work):
                    rows = heads.laid(work.spec, table, work.model.renderer)
                    np.save(part / f"{name}.npy", observed(work.model, rows, wanted, READS[name][1], on_progress=told))


def _as_base(work: Training) -> AbstractContextManager[None]:
    return work.method.active(work.model, False) if "swap" in work.method.supports else nullcontext()


def _told(listen: Listener, name: str, total: int, done: int) -> None:
    listen(Progress(name, done, total))


def needed(spec: Spec) -> list[str]:
    """Names of what is laid beside every sequence: what the objective wants; states, where nothing but a head moves."""
    if "still" in specs.METHODS.load(spec.method.name).Method.supports:
        return [STATE]
    return sorted(specs.OBJECTIVES.load(spec.objective.name).Objective.beside)


def beside(spec: Spec, table: TokenTable, role: Role, model: Model) -> Rows:
    """The rows of a table as the objective reads them, with what `compute` found."""
    names, rows = needed(spec), heads.laid(spec, table, model.renderer)
    if not names or not len(table):
        return rows
    folder = _folder(spec, table, role, model)
    return Beside(rows, {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names})


def blank(spec: Spec, rows: Rows, base: Model) -> Rows:
    """The rows with zeros in its place, for planning."""
    names, rows = needed(spec), heads.laid(spec, rows, base.renderer)
    width = base.width
    return Blank(rows, {name: (width,) if name == STATE else () for name in names}) if names else rows


def _wanted(spec: Spec, table: TokenTable, role: Role) -> list[int]:
    """Rows that will be learned from, or looked at: a run of few steps does not meet all of them."""
    everything = list(range(len(table)))
    if role == "held-out" or not everything:
        return everything
    order = Order(table, spec.train)
    whole = min(order.total, order.steps * order.per_step) >= len(table)
    return everything if whole else sorted({row for step in range(order.steps) for row in order.rows(step)})


def _folder(spec: Spec, table: TokenTable, role: Role, model: Model) -> Path:
    """Where the numbers of a table lie; the name says everything that decides them."""
    files = sorted(model.folder.glob(capsule.WEIGHTS))
    base = [_hash(file, file.stat().st_mtime_ns) for file in files] + [str(model.dtype), model.packing]
    return cache_folder() / "beside" / fingerprint([VERSION, spec.objective.name, table.fingerprint, base, _wanted(spec, table, role)])[:32]


@lru_cache(maxsize=64)
def _hash(file: Path, _: int) -> str:
    """Hash of a weight file, which is asked for several times a run and does not change between."""
    return sha256(file)
