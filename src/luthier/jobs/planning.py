"""What a Spec will take of memory, told before anything is loaded; and what to change where it does not fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import ResultError, SpecError
from luthier.core.events import Listener, Note, silence
from luthier.core.sequence import Rows
from luthier.core.spec import Part, Spec, TrainSpec
from luthier.data.render import Renderer
from luthier.engine.fit import MARGIN
from luthier.engine.planner import Plan, Planner, Way, program_bytes
from luthier.engine.session import Session
from luthier.jobs import beforehand, heads, specs, training
from luthier.jobs.prepare import inspect, prepare
from luthier.jobs.result import fresh_method
from luthier.jobs.training import Training
from luthier.models.catalog import catalog
from luthier.models.config import read_config
from luthier.models.find import find
from luthier.models.load import number_format, outline, shallow
from luthier.models.machine import memory, resident
from luthier.models.model import Model

SHORTER = (1024, 512, 256, 128)
"""Lengths of rows that are weighed where even the smallest way does not fit."""


@dataclass
class Planned:
    """The Spec with every number derived, and what it takes.

    Attributes:
        rows, held_out: that are learned, and that are not. tokens: of one pass over the former. parameters: of the base.
    """

    spec: Spec
    plan: Plan
    rows: int
    held_out: int
    tokens: int
    parameters: int


def plan(
    file: str | Path = "",
    *,
    available: int | None = None,
    listen: Listener = silence,
    config: str | Path | None = None,
    settings: Iterable[str] = (),
    **sections: Any,
) -> Planned:
    """Plan the memory of a run without loading its base; arguments as for `jobs.run.tune`.

    Args:
        available: bytes to plan for; left out, what this machine has free.

    Raises:
        SpecError, DataError, ModelError, NotFound: as `tune`.
    """
    said_file = {"data": {"file": str(file), **sections.pop("data", {})}} if file else {}
    spec = specs.gather(config=Path(config) if config else None, settings=settings, **said_file, **sections)
    if not spec.data.file:
        raise SpecError("No file of examples was given.", remedy="luthier plan FILE, or data.file in the spec.", code="no_file_given")
    room = int(MARGIN * (memory()[1] + resident())) if available is None else available
    return plan_of(spec, available=room, program=resident(), listen=listen)


def plan_of(spec: Spec, *, available: int, program: int, listen: Listener = silence) -> Planned:
    """As `plan`, for a complete Spec.

    Args:
        available: bytes to plan for. program: bytes of the process before it loads anything.
    """
    folder = find(spec.model.name)
    renderer = Renderer.from_folder(folder)
    base = outline(read_config(folder), renderer=renderer, dtype=number_format(spec.model.dtype))
    base.folder, base.context = folder, base.context if spec.model.context == "auto" else min(spec.model.context, base.context)
    training.make_room(spec, base)
    inspect(spec, renderer, context=base.context, listen=listen)
    data = prepare(spec, renderer, context=base.context, listen=listen)
    spec, rows = training.derived(spec, base, data, listen=listen), data.rows
    found = weigh(spec, base, rows, program=program, available=available)
    return Planned(spec, found, len(rows), len(data.valid), rows.totals.tokens, base.num_parameters)


def weigh(spec: Spec, base: Model, rows: Rows, *, program: int, available: int) -> Plan:
    """The plan of a derived Spec; where nothing fits, with the nearest that would."""
    planner = planner_of(spec, base, rows, program=program)
    found = planner.plan(available)
    if found.taken is None:
        found.nearest = list(_nearest(spec, base, rows, planner, found))
    return found


def planner_of(spec: Spec, base: Model, rows: Rows, *, program: int) -> Planner:
    """A planner for a derived Spec. Of `base` only config, number of blocks, renderer and number format are read."""

    def begin(model: Model, train: TrainSpec) -> Session:
        few = len(model.blocks()) < len(base.blocks())
        method = _attached(_everywhere(spec) if few else spec, model)
        return training.new_session(spec.model_copy(update={"train": train}), model, method, rows=rows, valid=rows)

    def few_blocks(blocks: int, vocabulary: int) -> Model:
        return shallow(base.config, renderer=base.renderer, blocks=blocks, vocabulary=vocabulary, dtype=base.dtype)

    rows = beforehand.blank(spec, rows, base)
    return Planner(
        outline=lambda: outline(base.config, renderer=base.renderer, dtype=base.dtype),
        shallow=few_blocks,
        begin=begin,
        rows=rows,
        train=spec.train,
        full=specs.moves_weights(spec),
        dtype=base.dtype,
        program=program,
    )


def take(spec: Spec, way: Way) -> Spec:
    """The Spec that goes this way."""
    update = {"optimiser": way.optimiser, "recompute": way.recompute, "tokens_per_pack": way.tokens_per_pack}
    return spec.model_copy(update={"train": spec.train.model_copy(update=update)})


def fitted(work: Training, *, listen: Listener) -> tuple[Training, int]:
    """Take the least costly way that fits, before anything is tried; what had to change is told.

    Returns:
        the training with optimiser, recompute and tokens_per_pack said, and the bytes foreseen; 0 where nothing is: on an accelerator, or
        with a packed base, which the rehearsal measures all the same.

    Raises:
        ResultError: nothing fits.
    """
    if work.model.device.type != "cpu" or work.model.packing:
        return work, 0
    room = int(MARGIN * (memory()[1] + resident()))
    found = weigh(work.spec, work.model, work.data.rows, program=program_bytes(work.model), available=room)
    if found.taken is None:
        raise refuse(found)
    if len(found.weighed) > 1:
        first = found.weighed[0]
        listen(Note(f"{first.way} would take {_mib(first.peak)} of {_mib(room)}: changed to {found.taken.way}.", level="warning"))
    work.spec = take(work.spec, found.taken.way)
    return work, found.taken.peak


def refuse(found: Plan) -> ResultError:
    """Why the run cannot begin, and the nearest that can."""
    least = found.weighed[-1]
    remedy = " Or: ".join(found.nearest) or "Use a smaller model, or a machine with more memory."
    return ResultError(
        f"The run needs at least {_mib(least.peak)} of memory ({least.way}), but only {_mib(found.available)} may be used.",
        remedy=remedy,
        code="memory_short",
    )


def _attached(spec: Spec, model: Model) -> Any:
    method: Any = fresh_method(spec)
    method.attach(model, seed=spec.train.seed)
    return heads.headed(spec, model, method)


def _everywhere(spec: Spec) -> Spec:
    """The method on a network of one block: what names blocks by number is taken for all of them, which only overestimates."""
    kept = {"frozen", "moving", "ranks", "targets"} & spec.method.options.keys()
    options = {key: value for key, value in spec.method.options.items() if key not in kept}
    targets = spec.method.options.get("targets")
    if isinstance(targets, list) and not any("." in target for target in targets):
        options["targets"] = targets
    return specs.complete(spec.model_copy(update={"method": Part(name=spec.method.name, **options)}))


def _nearest(spec: Spec, base: Model, rows: Rows, planner: Planner, found: Plan) -> Iterable[str]:
    """Sentences, each a change that was weighed and fits; a base of the catalog by its formula."""
    least, room = found.weighed[-1], found.available
    for tokens in SHORTER:
        if tokens < least.tokens and planner.need(least.way, tokens=tokens).peak <= room:
            yield f"rows of at most {tokens} tokens fit (model.context={tokens} with data.too_long=split, train.rows_per_step=1)."
            break
    if specs.moves_weights(spec):
        adapter = specs.complete(spec.model_copy(update={"method": Part(name="lora")}))
        other = planner_of(adapter, base, rows, program=planner.program).plan(room)
        if other.taken is not None:
            yield f"method=lora fits with {_mib(other.taken.peak)} ({other.taken.way})."
    rank = int(spec.method.options.get("rank", 1))
    if rank > 8:
        thin = spec.model_copy(update={"method": Part(**{**spec.method.model_dump(), "rank": 8})})
        if planner_of(thin, base, rows, program=planner.program).need(least.way).peak <= room:
            yield "method.rank=8 fits."
    fitting = [e for e in catalog().values() if (e.full_bytes if specs.moves_weights(spec) else e.lora_bytes) <= room]
    smaller = [e for e in fitting if e.parameters < sum(p.numel() for p in base.network.parameters())]
    if smaller:
        yield f"a smaller base fits: {max(smaller, key=lambda e: e.parameters).name}."


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"
