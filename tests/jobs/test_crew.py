"""Two processes take every step together: the same curve as one, one set of files, nobody left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from luthier.core.errors import Interrupted, ResultError
from luthier.core.events import Event, Note, Stepped
from luthier.core.files import sha256
from luthier.jobs import specs
from luthier.jobs.run import resume, train_only

from .conftest import SHORT, write_rows

WEIGHTS = "adapter/adapter_model.safetensors"
EXACT = ("model.dtype=float32", "train.learning_rate=1e-3")


def followers(of: int = 0) -> list[psutil.Process]:
    """Follower processes of this process (or of `of`) that still live."""
    children = psutil.Process(of or os.getpid()).children(recursive=True)
    return [p for p in children if p.status() != psutil.STATUS_ZOMBIE and "luthier.jobs.crew" in p.cmdline()]


def tune(rows: Path, base: Path, out: Path, *more: str, listen: Callable[[Event], None] = lambda _: None) -> Path:
    """The stages up to the trained weights."""
    spec = specs.gather(data=str(rows), model=str(base), settings=[*SHORT, *EXACT, *more])
    return train_only(spec, out=out, listen=listen).path


def at(number: int, how: Callable[[], None]) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == number:
            how()

    return listen


def curve(run: Path) -> list[tuple[float, ...]]:
    """Loss and gradient norm of every step, loss of every look."""
    lines = map(json.loads, (run / "steps.jsonl").read_text().splitlines())
    return [(line["loss"], line.get("gradient_norm", 0.0)) for line in lines]


@pytest.fixture(scope="module")
def pair(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes, made once."""
    place = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(place / "home"))
        return tune(write_rows(place / "tickets.jsonl"), tiny_base, place / "run", "train.processes=2")


def test_two_processes_equal_one(pair: Path, rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    single = tune(rows, tiny_base, tmp_path / "single", "train.processes=1")
    assert len(curve(pair)) == len(curve(single)) == 8
    for found, wanted in zip(curve(pair), curve(single), strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)
    found, wanted = load_file(pair / WEIGHTS), load_file(single / WEIGHTS)
    start = {name: torch.zeros_like(w) for name, w in wanted.items() if "lora_B" in name}  # what B began as: its change is all of it
    for name in start:
        assert (found[name] - wanted[name]).norm() < 1e-3 * wanted[name].norm(), name
    assert not followers()
    assert not torch.distributed.is_initialized()


def test_full_tuning_by_two_equals_one(rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    full = ("method=full", "train.learning_rate=1e-4", "train.max_steps=2")
    two = tune(rows, tiny_base, tmp_path / "two", *full, "train.processes=2")
    one = tune(rows, tiny_base, tmp_path / "one", *full, "train.processes=1")
    for found, wanted in zip(curve(two), curve(one), strict=True):
        assert found == pytest.approx(wanted, rel=1e-5)


def test_stopped_and_resumed_it_ends_byte_equal(pair: Path, rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    with pytest.raises(Interrupted, match="Stopped after step 3 of 6"):
        tune(rows, tiny_base, out, "train.processes=2", listen=at(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert not followers()
    saved = sorted(folder.name for folder in (out / "checkpoints").glob("step-*"))
    assert saved == ["step-000002", "step-000003"]
    done = resume(out)
    assert sha256(done.folder / WEIGHTS) == sha256(pair / WEIGHTS)


def test_a_lost_process_ends_the_run_with_a_sentence_and_it_resumes(pair: Path, rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "lost"

    def kill() -> None:
        followers()[0].kill()

    with pytest.raises(ResultError, match=r"Process 2 of 2 was killed by SIGKILL.*luthier tune --resume") as caught:
        tune(rows, tiny_base, out, "train.processes=2", listen=at(3, kill))
    assert caught.value.code == "process_lost"
    assert not followers()
    assert json.loads((out / "state.json").read_text())["error"]["code"] == "process_lost"
    assert sha256(resume(out).folder / WEIGHTS) == sha256(pair / WEIGHTS)


def test_no_follower_outlives_its_leader(rows: Path, tiny_base: Path, tmp_path: Path) -> None:
    settings = [part for s in (*SHORT, *EXACT, "train.processes=2", "train.max_steps=10000", "train.epochs=1000") for part in ("--set", s)]
    out = tmp_path / "run"
    leader = subprocess.Popen(
        [sys.executable, "-m", "luthier", "tune", str(rows), "--model", str(tiny_base), "--out", str(out), *settings],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while leader.poll() is None and not ((out / "steps.jsonl").exists() and (out / "steps.jsonl").read_text()):
            time.sleep(0.05)
        left = followers(leader.pid)
        assert len(left) == 1
    finally:
        leader.kill()
        leader.wait()
    _, alive = psutil.wait_procs(left, timeout=30)
    assert not alive


def test_a_follower_that_cannot_begin_says_why(rows: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hide(event: Event) -> None:
        if isinstance(event, Note) and "steps, about" in event.text:  # after the rehearsal, before the followers begin
            monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "elsewhere"))

    with pytest.raises(ResultError, match=r"Process 2 of 2 ended with status 1: .*token table cannot be used"):
        tune(rows, tiny_base, tmp_path / "run", "train.processes=2", listen=hide)
