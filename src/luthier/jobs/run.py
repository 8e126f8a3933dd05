"""The main job: from a file of examples to a model that is proven better, or said not to be.

    check -> split -> ledger -> load -> derive -> rehearse -> tune -> evaluate -> certify -> report

Every stage leaves its result in the run's folder, so that a run stopped or killed at any moment goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow

from luthier.core.errors import DataError, Interrupted, LuthierError, SpecError, StorageError
from luthier.core.events import Event, Listener, Note, Stage, silence
from luthier.core.files import sweep, write_json
from luthier.core.spec import Spec
from luthier.data import ledger
from luthier.data.report import Report
from luthier.jobs import beforehand, capsule, heads, judging, planning, specs, teaching, training
from luthier.jobs.prepare import Prepared, inspect, prepare
from luthier.jobs.result import Run
from luthier.jobs.training import Training
from luthier.models.model import Model
from luthier.store import runs
from luthier.store.holding import held
from luthier.store.runs import RunFolder, State


def tune(
    file: str | Path = "",
    *,
    out: str | Path | None = None,
    listen: Listener = silence,
    config: str | Path | None = None,
    settings: Iterable[str] = (),
    **sections: Any,
) -> Run:
    """Tune a model on examples and compare it with its base.

    Args:
        file: the examples. out: a new folder for the run; left out, it lies under ``LUTHIER_HOME``.
        listen: called with every event. config: a ``spec.yaml``. settings: ``key=value`` texts, as ``--set`` takes them.
        sections: ``model``, ``method``, ``objective`` (a name or a mapping), ``data``, ``train``, ``evaluate`` (mappings), ``quality``.

    Raises:
        SpecError, DataError, ModelError, NotFound, ResultError, StorageError: see `core.errors`.
        Interrupted: SIGINT or SIGTERM; the remedy is the command that goes on.
    """
    said_file = {"data": {"file": str(file), **sections.pop("data", {})}} if file else {}
    spec = specs.gather(config=Path(config) if config else None, settings=settings, **said_file, **sections)
    if not spec.data.file:
        raise SpecError("No file of examples was given.", remedy="luthier tune FILE, or data.file in the spec.", code="no_file_given")
    return begin(spec, out=Path(out) if out else None, listen=listen)


def load(name: str | Path) -> Run:
    """A run by its folder, its id, or the beginning of its id."""
    return Run(runs.find(str(name)))


def begin(spec: Spec, *, out: Path | None = None, token: int | None = None, listen: Listener = silence) -> Run:
    """Check, and if the examples pass, make the run's folder and do all stages.

    Args:
        token: fencing token of whoever holds the job this run is for.
    """
    if out is not None:
        runs.free(out)
    model, report = _checked(spec, listen)
    folder = runs.create(out=out, stem=Path(spec.data.file).stem, method=spec.method.name)
    with held(folder.path, token=token), _not_kept_when_wrong(folder), _accounted(folder, listen) as noting:
        _sealed(folder, spec, model, report)
        return _stages(folder, spec, model, noting)


def train_only(spec: Spec, *, out: Path, listen: Listener = silence) -> RunFolder:
    """The stages up to the trained weights, without comparing: what `reproduce` needs."""
    model, report = _checked(spec, listen)
    folder = runs.create(out=out, stem=Path(spec.data.file).stem, method=spec.method.name)
    with held(folder.path), _not_kept_when_wrong(folder), _accounted(folder, listen) as noting:
        _sealed(folder, spec, model, report)
        _weights(folder, spec, model, noting)
    return folder


def resume(name: str | Path, *, token: int | None = None, listen: Listener = silence) -> Run:
    """Continue a run that was stopped, killed or failed, or lost a file; a finished one is returned as it is.

    Args:
        token: fencing token of whoever holds the job this run is for.

    Raises:
        DataError, SpecError, ModelError: data, ``spec.yaml`` or base changed since it began.
        StorageError: another process works on it.
    """
    folder = runs.find(str(name))
    if folder.state()["state"] == "succeeded" and folder.complete:
        listen(Note(f"{folder.id} is complete; there is nothing to resume."))
        return Run(folder)
    with held(folder.path, token=token):
        sweep(folder.path)
        spec = specs.load(folder.spec)
        with _accounted(folder, listen) as noting:
            capsule.verify_spec(folder, spec)
            capsule.verify_data(folder, spec)
            model = training.load_base(spec)
            capsule.verify_base(folder, model.folder)
            return _stages(folder, spec, model, noting)


def _checked(spec: Spec, listen: Listener) -> tuple[Model, Report]:
    """The base, and what the check found: nothing that stops the run."""
    model = training.load_base(spec)
    return model, inspect(spec, model.renderer, context=model.context, listen=listen)


def _sealed(folder: RunFolder, spec: Spec, model: Model, report: Report) -> None:
    """Write down what the run is made of before it begins."""
    write_json(folder.data, report.to_json())
    specs.save(spec, folder.spec)
    capsule.seal(folder, spec, model_folder=model.folder)


def _stages(folder: RunFolder, spec: Spec, model: Model, listen: Listener) -> Run:
    """Everything after the check. What is already on disk is not done again."""
    work = _weights(folder, spec, model, listen)
    if not (folder.evaluation / "summary.json").is_file():
        judging.compare(work, listen=listen)
    if not folder.certificate.is_file():
        judging.certify(work, listen=listen)
    judging.tell(work, listen=listen)
    folder.mark("succeeded", stage="done", error={})
    return Run(folder)


def _weights(folder: RunFolder, spec: Spec, model: Model, listen: Listener) -> Training:
    """Prepare, account, train; the capsule then holds the hashes of what came out."""
    data = prepare(spec, model.renderer, context=model.context, listen=listen)
    _account(folder, data, listen)
    work = _trained(folder, spec, model, data, listen)
    capsule.close(folder, work.spec)
    return work


def _account(folder: RunFolder, data: Prepared, listen: Listener) -> None:
    """What each row teaches, kept and summed up."""
    write_json(folder.split, {"reason": data.split.reason, "train": data.split.train, "valid": data.split.valid})
    ledger.save(pyarrow.concat_tables([data.rows.ledger, data.valid.ledger], promote_options="permissive"), folder.ledger)
    totals = data.rows.totals
    listen(Note(f"{totals.tokens:,} tokens to read, {totals.learned:,} of them learned ({totals.learned / max(totals.tokens, 1):.0%})"))


def _trained(folder: RunFolder, spec: Spec, model: Model, data: Prepared, listen: Listener) -> Training:
    """The model with trained weights attached: from disk when training is complete, else trained now."""
    kind = specs.METHODS.load(spec.method.name).Method
    if (folder.path / kind.folder_name).is_dir():
        return Training(folder, spec, model, heads.load(spec, model, folder.path / kind.folder_name), data)
    spec = training.derived(spec, model, data, listen=listen)
    work = Training(folder, spec, model, training.attach(spec, model, listen=listen), data)
    work.data = teaching.taught(work, listen=listen)
    fresh, foreseen = folder.last_checkpoint() is None, 0
    if fresh:
        work, foreseen = planning.fitted(work, listen=listen)
    beforehand.compute(work, listen=listen)
    if fresh:
        work = training.dress_rehearsal(work, foreseen=foreseen, listen=listen)
        capsule.derived(folder, work.spec)
        specs.save(work.spec, folder.spec)
    training.fit(work, listen=listen)
    return work


@contextmanager
def _not_kept_when_wrong(folder: RunFolder) -> Iterator[None]:
    """A new run that was asked wrongly (an option the model refutes, rows that cannot be split) never began: its folder, made a moment
    ago by us, goes, so that the corrected command can use the same ``--out``."""
    try:
        yield
    except (SpecError, DataError):
        if folder.last_checkpoint() is None and not folder.weights.is_dir():  # never what was trained
            shutil.rmtree(folder.path, ignore_errors=True)
        raise


@contextmanager
def _accounted(folder: RunFolder, listen: Listener) -> Iterator[Listener]:
    """Whatever happens inside, ``state.json`` tells it, and an interruption tells how to go on."""

    def noting(event: Event) -> None:
        if isinstance(event, Stage):
            folder.mark("running", stage=event.name)
        if isinstance(event, Note):
            folder.note(event.level, event.text)
        listen(event)

    folder.mark("running", error={})
    try:
        yield noting
    except (Interrupted, KeyboardInterrupt) as stop:
        _mark(folder, "interrupted")
        what = stop.what if isinstance(stop, Interrupted) else "Stopped; everything that was complete is saved."
        raise Interrupted(what, where=str(folder.path), remedy=f"Go on with: luthier tune --resume {folder.name}") from stop
    except LuthierError as error:
        _mark(folder, "failed", error=error.to_json())
        raise
    except Exception as error:
        _mark(folder, "failed", error={"code": "bug", "message": f"{type(error).__name__}: {error}"})
        raise


def _mark(folder: RunFolder, state: State, **facts: Any) -> None:
    """Note how it ended, if the disk takes it: on a full one the first error is what the user must read, not this one."""
    with suppress(StorageError):
        folder.mark(state, **facts)
