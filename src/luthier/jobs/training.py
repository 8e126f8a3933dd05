"""From tokens to trained weights: attach, derive, rehearse, fit. Stopped at any moment, it goes on from the last checkpoint."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.compute
import torch

from luthier.core.errors import Interrupted, SpecError
from luthier.core.events import Listener, Note, Stage, Stepped, silence
from luthier.core.sequence import Rows
from luthier.core.spec import Spec
from luthier.engine import checkpoint
from luthier.engine.arena import keep_memory
from luthier.engine.order import compared
from luthier.engine.rehearsal import rehearse
from luthier.engine.session import Session
from luthier.engine.watch import Watch
from luthier.jobs import beforehand, heads, rollouts, specs, stopping
from luthier.jobs.crew import crew
from luthier.jobs.derive import Facts, derive
from luthier.jobs.fitting import check_fit
from luthier.jobs.prepare import Prepared
from luthier.jobs.result import fresh_method
from luthier.models.lead import leave_room
from luthier.models.load import load as load_model
from luthier.models.model import Model
from luthier.store.holding import token_of
from luthier.store.runs import RunFolder

PASSES_KEPT = 3
"""As the service this one stands in for: the models of the last three passes can be asked."""


@dataclass
class Training:
    """A run that is about to train: the model with its method attached, the data, and the Spec with every number derived."""

    folder: RunFolder
    spec: Spec
    model: Model
    method: Any
    data: Prepared


def load_base(spec: Spec) -> Model:
    """The base of a Spec; its context is what the method leaves for rows.

    Raises:
        NotFound, ModelError: as `models.load.load`.
    """
    model = load_model(spec.model.name, dtype=spec.model.dtype, context=spec.model.context)
    make_room(spec, model)
    return model


def make_room(spec: Spec, model: Model) -> None:
    """Leave room in the context for what the method lays before every row."""
    occupies = getattr(fresh_method(spec), "occupies", None)
    if occupies is not None:
        leave_room(model, occupies())


def derived(spec: Spec, model: Model, data: Prepared, *, listen: Listener) -> Spec:
    """Every "auto" becomes a number, and is told.

    Raises:
        SpecError: base, method, objective and rows do not go together.
    """
    check_fit(spec, model, data.rows)
    spec = heads.settled(spec, data.rows, data.valid, model.renderer, listen=listen)
    spec, notes = derive(spec, facts(spec, model, data))
    for note in notes:
        listen(note)
    return spec


def facts(spec: Spec, model: Model, data: Prepared) -> Facts:
    """What the numbers are derived from."""
    totals, answers = data.rows.totals, (data.valid if len(data.valid) else data.rows).ledger["learned"]
    return Facts(
        rows=len(data.rows),
        tokens=totals.tokens,
        learned=totals.learned,
        longest=int(pyarrow.compute.max(data.rows.ledger["total"]).as_py() or 0),
        longest_answer=int(pyarrow.compute.max(answers).as_py() or 0),
        parameters=model.num_parameters,
        dtype=model.packing or str(model.dtype).removeprefix("torch."),
        context=model.context,
        accelerators=torch.cuda.device_count(),
        objective_rate=specs.OBJECTIVES.load(spec.objective.name).Objective.rate,
        still="still" in specs.METHODS.load(spec.method.name).Method.supports,
    )


def attach(spec: Spec, model: Model, *, listen: Listener = silence) -> Any:
    """Place what will be trained; the model answers as the base until the first step.

    Raises:
        SpecError: the parts of the Spec do not go together, or the options leave nothing to train.
    """
    check_fit(spec, model)
    method: Any = fresh_method(spec)
    method.attach(model, seed=spec.train.seed)
    method = heads.headed(spec, model, method, listen=listen)
    if model.num_trained == 0:
        said = ", ".join(f"method.{key} = {value}" for key, value in spec.method.options.items())
        raise SpecError(f"No weight would move: {said}.", remedy="Freeze less, or name targets.", code="bad_value")
    return method


def dress_rehearsal(training: Training, *, foreseen: int = 0, listen: Listener) -> Training:
    """The longest pack, saving, loading, before step 1; the forecast is told, and what had to change is kept in the Spec."""
    listen(Stage("rehearse"))
    session, train = _session(training), training.spec.train
    forecast = rehearse(session, folder=training.folder.path, looks=session.steps // int(train.validate_every))
    for change in forecast.changes:
        listen(Note(change, level="warning"))
    listen(Note(str(forecast), data=forecast.to_json()))
    if foreseen:
        off = forecast.peak_bytes / foreseen - 1
        listen(
            Note(
                f"The plan foresaw {foreseen / 2**20:,.0f} MiB at the highest, the rehearsal found {off:+.0%}.", data={"foreseen": foreseen}
            )
        )
    if train.group_prefixes:
        listen(compared(session.rows, session.order, forecast.tokens_per_pack))
    if forecast.compiling:
        listen(Note(forecast.compiling))
    update = {name: getattr(forecast, name) for name in ("tokens_per_pack", "recompute", "offload")} | {"compile": forecast.compiled}
    training.spec = training.spec.model_copy(update={"train": train.model_copy(update=update)})
    return training


def fit(training: Training, *, listen: Listener) -> None:
    """Train to the end and save the best weights in their standard layout.

    Raises:
        Interrupted: somebody asked to stop; a checkpoint of that moment is on disk.
    """
    spec, folder = training.spec, training.folder
    session = _session(training)
    token = token_of(folder.path)
    watch = Watch(session, folder.path, int(spec.train.save_every), int(spec.train.validate_every), spec.train.patience, token)
    resumed = watch.resume()
    listen(Stage("tune", f"{session.steps} steps, {spec.method.name}, {training.model.num_trained:,} weights move"))
    if resumed is not None:
        listen(resumed)
    begin_from = folder.checkpoints / f"{checkpoint.PREFIX}{session.step:06d}" if session.step else None
    with crew(session, spec, begin_from=begin_from), stopping.listening() as asked:
        for event in watch.run():
            listen(event)
            if isinstance(event, Stepped) and session.order.ends_pass(event.step) and "peft" in training.method.supports:
                _keep_pass(training, event.step)
            if asked.to_stop and session.step < session.steps:
                watch.save()
                raise Interrupted(f"Stopped after step {session.step} of {session.steps}; everything up to it is saved.")
    if training.model.predictor is not None:
        heads.finish(training.model.predictor, session.rows, session.valid or [], training.model)
    training.method.save(training.model, folder.path / training.method.folder_name)
    shutil.rmtree(folder.checkpoints / "best", ignore_errors=True)  # now saved in their standard layout


def _keep_pass(training: Training, step: int) -> None:
    """Save the adapter as it is now, and let go of those before the last passes."""
    passes = training.folder.passes
    training.method.save(training.model, passes / f"{checkpoint.PREFIX}{step:06d}")
    for old in [kept for kept in training.folder.kept_passes() if kept <= step][:-PASSES_KEPT]:
        shutil.rmtree(passes / f"{checkpoint.PREFIX}{old:06d}")


def new_session(spec: Spec, model: Model, method: Any, *, rows: Rows, valid: Rows) -> Session:
    """One run of the loop in memory, with the objective of the Spec."""
    keep_memory()
    return Session(model, method, heads.objective(spec), rows=rows, valid=valid, train=spec.train)


def _session(training: Training) -> Session:
    rows = beforehand.beside(training.spec, training.data.rows, "training", training.model)
    valid = beforehand.beside(training.spec, training.data.valid, "held-out", training.model)
    session = new_session(training.spec, training.model, training.method, rows=rows, valid=valid)
    session.rollouts = rollouts.rolled(training.spec, training.model, training.method, training.data.rows, training.data.valid)
    return session
