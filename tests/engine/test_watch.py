"""Checkpoints, resuming, the best weights, stopping early, and what happens when the disk fails."""

import dataclasses
import errno
import json

import pytest
import torch

from luthier.core.errors import StorageError
from luthier.core.events import Note, Saved, Stepped, Validated
from luthier.core.files import sha256
from luthier.core.spec import TrainSpec
from luthier.engine import checkpoint
from luthier.engine.session import Session
from luthier.engine.watch import Watch
from luthier.methods import full, lora
from luthier.objectives import sft

TRAIN = TrainSpec(epochs=2, rows_per_step=4, learning_rate=5e-3, seed=3)


@pytest.fixture
def watch(tiny_model, bushy_rows, tmp_path):
    """A fresh watched session over the same rows and weights; ``folder`` is the run's."""

    def make(folder="run", *, method=None, dtype="float32", valid=True, save_every=3, validate_every=2, patience=0, **changes):
        model = tiny_model(dtype=dtype)
        method = method or lora.Method(lora.Options(rank=4, dropout=0.1))
        method.attach(model, seed=5)
        rows = bushy_rows(count=20)
        train = TRAIN.model_copy(update=changes)
        session = Session(model, method, sft.Objective(), rows=rows, valid=bushy_rows(seed=1, count=3) if valid else None, train=train)
        return Watch(session, tmp_path / folder, save_every=save_every, validate_every=validate_every, patience=patience)

    return make


def weights_of(watch):
    return {name: t.clone() for name, t in watch.session.method.state(watch.session.model).items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("kind", ["lora", "full", "full-bf16", "adamw8bit", "layerwise"])
def test_a_run_stopped_anywhere_ends_byte_equal(watch, kind):
    make = {
        "lora": lambda folder: watch(folder),
        "full": lambda folder: watch(folder, method=full.Method()),
        "full-bf16": lambda folder: watch(folder, method=full.Method(), dtype="bfloat16"),
        "adamw8bit": lambda folder: watch(folder, method=full.Method(), dtype="bfloat16", optimiser="adamw8bit", recompute=True),
        "layerwise": lambda folder: watch(folder, method=full.Method(), dtype="bfloat16", optimiser="layerwise"),
    }[kind]
    whole = make("whole")
    list(whole.run())
    for stop_after in (4, 8):
        torn = make(f"torn{stop_after}")
        for event in torn.run():
            if isinstance(event, Stepped) and event.step == stop_after:
                break  # as kill -9 would: nothing is saved here
        again = make(f"torn{stop_after}")
        again.resume()
        list(again.run())
        assert equal(weights_of(whole), weights_of(again)), f"stopped after step {stop_after}"
        lines = [json.loads(line) for line in (again.folder / "steps.jsonl").read_text().splitlines()]
        assert [r["step"] for r in lines if r["kind"] == "stepped"] == list(range(1, whole.session.steps + 1))


def test_checkpoint_files_are_equal_too(watch):
    for folder in ("one", "two"):
        list(watch(folder).run())
    last = sorted((watch("one").folder / "checkpoints").glob("step-*"))[-1]
    other = watch("two").folder / "checkpoints" / last.name
    assert {f.name: sha256(f) for f in last.iterdir()} == {f.name: sha256(f) for f in other.iterdir()}


def test_a_damaged_checkpoint_is_passed_over(watch):
    first = watch()
    list(first.run())
    newest, older = sorted((first.folder / "checkpoints").glob("step-*"), reverse=True)[:2]
    torn = newest / "weights.safetensors"
    torn.write_bytes(torn.read_bytes()[:-7])
    with pytest.raises(StorageError, match="incomplete or damaged"):
        checkpoint.load(newest)
    again = watch()
    note = again.resume()
    assert isinstance(note, Note)
    assert again.session.step == int(older.name.removeprefix("step-"))


def test_half_written_folders_are_never_seen(watch):
    run = watch()
    list(run.run())
    (run.folder / "checkpoints" / ".step-009999.1.part").mkdir()
    assert all(p.name.startswith("step-0") for p in checkpoint.newest(run.folder / "checkpoints"))


def test_a_full_disk_leaves_the_last_checkpoint_whole(watch, monkeypatch):
    run = watch()
    events = run.run()
    saved = next(e for e in events if isinstance(e, Saved))

    def full_disk(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("luthier.engine.checkpoint.save_file", full_disk)
    with pytest.raises(StorageError, match=r"No space left on device.*what was saved before is intact"):
        list(events)
    monkeypatch.undo()
    left = [p for p in (run.folder / "checkpoints").iterdir() if p.name.startswith(("step", "."))]
    assert [str(p) for p in left] == [saved.folder]
    assert checkpoint.whole(left[0])


def test_a_successor_is_not_overwritten(watch):
    old = watch()
    old.token = 7
    list(old.run())
    late = watch()
    late.token = 6
    with pytest.raises(StorageError, match="newer worker"):
        late.resume()


def test_the_best_weights_are_kept(watch):
    run = watch(validate_every=1, learning_rate=0.3, epochs=4)
    looks = [e for e in run.run() if isinstance(e, Validated)]
    best = min(looks, key=lambda e: e.loss)
    assert best.step < looks[-1].step, "this rate must overshoot, or the test shows nothing"
    assert run.session.validate() == pytest.approx(best.loss, rel=1e-6)


def test_stopping_early(watch):
    run = watch(validate_every=1, learning_rate=0.3, epochs=20, patience=3)
    events = list(run.run())
    looks = [e for e in events if isinstance(e, Validated)]
    assert run.session.step < run.session.steps
    assert [e.best for e in looks[-3:]] == [False] * 3
    again = watch(validate_every=1, learning_rate=0.3, epochs=20, patience=3)
    again.resume()
    assert not [e for e in again.run() if isinstance(e, Stepped)], "a run that stopped early stays stopped"


def test_events_are_plain(watch):
    for event in watch().run():
        assert json.loads(json.dumps(event.to_json()))["kind"] == type(event).__name__.lower()
        assert dataclasses.is_dataclass(event)


def test_a_look_that_is_not_a_number_is_never_the_best(watch):
    watched = watch("broken", validate_every=2)
    head = watched.session.model.head().weight
    sound = head.detach().clone()
    looks = []
    for event in watched.run():
        if isinstance(event, Stepped):  # the head stands still in LoRA: spoiled for the first look only
            head.data.copy_(torch.full_like(sound, torch.nan) if event.step == 2 else sound)
        if isinstance(event, Validated):
            looks.append((event.step, event.best))
            head.data.copy_(sound)
    assert looks[:2] == [(2, False), (4, True)]
    assert watched.progress.best_step > 2
