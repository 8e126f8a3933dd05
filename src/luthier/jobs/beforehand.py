"""What is computed once before the first step and laid beside every row: kept in the cache, by everything that decides it.

    reference   the base's log-probability of each learned token (preference objectives)
    teacher     the likeliest tokens of a teacher, or of the base itself, at each place (distillation; the leash of sft)
    state       the states themselves, where a method lets nothing in the network move (it supports "still"): the network is not run
                again, and a head trains on them in seconds

The base is at hand whatever the method. Runs on the same rows share what was found. Rows that are replayed against forgetting join here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from luthier.core.events import Listener, Progress, Stage
from luthier.core.files import fingerprint, new_folder
from luthier.core.home import cache_folder
from luthier.core.sequence import Rows
from luthier.core.spec import Spec
from luthier.data.tokens import TokenTable
from luthier.engine.beside import Beside, Blank, Read, observed, reference
from luthier.engine.forest import STATE, Forest
from luthier.engine.order import Order
from luthier.jobs import heads, replaying, specs, teachers
from luthier.models.model import Model
from luthier.objectives._teacher import IDS, LOGPROBS

if TYPE_CHECKING:
    from luthier.jobs.training import Training

TOLD = {
    "reference": "what the base thinks of every answer, once",
    "teacher": "what the teacher thinks of every token, once",
    STATE: "what the base makes of every row, once: nothing in it moves",
}

Role = Literal["training", "held-out"]

VERSION = 2
"""Raised when the same model gives other numbers than before: what is kept is then found anew."""


def compute(work: Training, *, listen: Listener) -> None:
    """Find what is not in the cache yet; must be called before any weight moves.

    Raises:
        StorageError: the cache cannot be written. SpecError, NotFound: the teacher cannot teach this model.
    """
    for name in needed(work.spec):
        listen(Stage(name, TOLD[name]))
        roles: dict[Role, TokenTable] = {"training": work.data.rows, "held-out": work.data.valid}
        for role, table in roles.items():
            rows = _rows(work.spec, table, role, work.model)
            wanted, folder = _wanted(work.spec, rows, role), _folder(work.spec, rows, table, role, name, work.model)
            if len(wanted) and not folder.is_dir():
                told = partial(_told, listen, name, len(wanted))
                whose = heads.objective(work.spec).teacher if name == "teacher" else ""
                with new_folder(folder) as part, teachers.teacher(whose, work.spec, work.model, work.method) as model:
                    observed(model, rows, wanted, _read(work.spec, name), make=partial(_on_disk, part), on_progress=told)


def needed(spec: Spec) -> list[str]:
    """Names of what is laid beside every row: what the objective wants; states, where nothing but a head moves."""
    if "still" in specs.METHODS.load(spec.method.name).Method.supports:
        return [STATE]
    return sorted(heads.objective(spec).beside)


def beside(spec: Spec, table: TokenTable, role: Role, model: Model) -> Rows:
    """The rows of a table as the objective reads them, with what `compute` found."""
    rows = _rows(spec, table, role, model)
    known: dict[str, NDArray[Any]] = {}
    for name in needed(spec) if len(rows) else ():
        folder = _folder(spec, rows, table, role, name, model)
        known |= {file.stem: np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))}
    return Beside(rows, known) if known else rows


def blank(spec: Spec, table: Rows, base: Model) -> Rows:
    """The rows with zeros in the place of what will be known, for planning."""
    rows, names, top = heads.laid(spec, table, base.renderer), needed(spec), getattr(heads.objective(spec), "top", 0)
    shapes: dict[str, dict[str, tuple[tuple[int, ...], Any]]] = {
        "reference": {"reference": ((), np.float32)},
        "teacher": {IDS: ((top,), np.int32), LOGPROBS: ((top,), np.float32)},
        STATE: {STATE: ((base.width,), np.float32)},
    }
    return Blank(rows, {name: shape for each in names for name, shape in shapes[each].items()}) if names else rows


def _rows(spec: Spec, table: TokenTable, role: Role, model: Model) -> Rows:
    rows = heads.laid(spec, table, model.renderer)
    return replaying.mixed(spec, rows, model) if role == "training" else rows


def _read(spec: Spec, name: str) -> Read:
    if name == "teacher":
        part = heads.objective(spec)
        return partial(_likeliest, part.top, part.temperature)
    return reference if name == "reference" else _states


def _likeliest(count: int, temperature: float, forest: Forest) -> dict[str, Any]:
    ids_NK, logprobs_NK = forest.top(min(count, forest.model.head().weight.shape[0]), temperature=temperature)
    return {IDS: ids_NK, LOGPROBS: logprobs_NK}


def _states(forest: Forest) -> dict[str, Any]:
    return {STATE: forest.states_ND}


def _on_disk(folder: Path, name: str, shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
    """An array that lies in a file: what is known of many rows need not fit into memory."""
    make: Callable[..., NDArray[Any]] = np.lib.format.open_memmap
    return make(folder / f"{name}.npy", mode="w+", dtype=kind, shape=tuple(map(int, shape)))


def _told(listen: Listener, name: str, total: int, done: int) -> None:
    listen(Progress(name, done, total))


def _wanted(spec: Spec, rows: Rows, role: Role) -> list[int]:
    """Rows that will be learned from, or looked at: a run of few steps does not meet all of them."""
    everything = list(range(len(rows)))
    if role == "held-out" or not everything:
        return everything
    order = Order(rows, spec.train)
    whole = min(order.total, order.steps * order.per_step) >= len(rows)
    return everything if whole else sorted({row for step in range(order.steps) for row in order.rows(step)})


def _folder(spec: Spec, rows: Rows, table: TokenTable, role: Role, name: str, model: Model) -> Path:
    """Where the numbers of a table lie; its name says everything that decides them."""
    part = heads.objective(spec)
    decides = [VERSION, name, spec.objective.name, table.fingerprint, teachers.base_identity(model), _wanted(spec, rows, role)]
    decides += replaying.identity(spec) if role == "training" else []
    if name == "teacher":
        decides += [part.top, part.temperature, *(teachers.identity(part.teacher) if part.teacher else [])]
    return cache_folder() / "beside" / fingerprint(decides)[:32]
