#!/usr/bin/env python3
"""Kill a run at random moments (SIGKILL), resume it, and compare with a run that was left alone.

    python tests/faults/kill.py ROWS MODEL --kills 20 --steps 30

For every kill a fresh run is started, killed once, then resumed. The trained weights must be byte-equal to the undisturbed run's, every
JSON, JSON-lines, Parquet and safetensors file must be whole, and nothing temporary may be left. Prints a table; exit status 1 if anything
differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet
from safetensors import safe_open

from luthier.core.files import sha256


@dataclass(slots=True)
class Kill:
    """What one kill did."""

    after: float
    stage: str
    checkpoint: str
    equal: bool
    broken: list[str]

    @property
    def good(self) -> bool:
        return self.equal and not self.broken


def start(arguments: list[str], home: Path) -> subprocess.Popen[bytes]:
    """`luthier` in a process group of its own."""
    env = {**os.environ, "LUTHIER_HOME": str(home)}
    with open(home / "log.txt", "ab") as log:  # the child keeps it
        return subprocess.Popen([sys.executable, "-m", "luthier", *arguments], env=env, stdout=log, stderr=log, start_new_session=True)


def finish(arguments: list[str], home: Path) -> None:
    """Run to the end, or show why not."""
    if start(arguments, home).wait() != 0:
        sys.exit(f"luthier {' '.join(arguments)} failed:\n" + (home / "log.txt").read_text()[-3000:])


def broken_files(run: Path) -> list[str]:
    """Files of a run that cannot be read back, and temporary ones that were left."""
    broken = []
    for file in sorted(run.rglob("*")):
        if ".part" in file.name or file.name.endswith(".old"):
            broken.append(f"{file.relative_to(run)}: left behind")
            continue
        try:
            _read(file)
        except Exception as error:
            broken.append(f"{file.relative_to(run)}: {error}")
    return broken


def _read(file: Path) -> None:
    match file.suffix:
        case ".json":
            json.loads(file.read_text())
        case ".jsonl":
            [json.loads(line) for line in file.read_text().splitlines()]
        case ".parquet":
            pyarrow.parquet.read_table(file)
        case ".safetensors":
            with safe_open(file, framework="np") as tensors:
                list(tensors.keys())


@dataclass(slots=True)
class Moment:
    """When to kill: once so many steps are recorded (0: from the start), and then so many seconds later."""

    steps: int
    seconds: float

    def wait(self, run: Path, process: subprocess.Popen[bytes]) -> None:
        """Sleep until then, or until the process is gone."""
        steps = run / "steps.jsonl"
        while process.poll() is None and self.steps and (not steps.exists() or steps.read_bytes().count(b'"stepped"') < self.steps):
            time.sleep(0.01)
        end = time.monotonic() + self.seconds
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)


def once(tune: list[str], run: Path, home: Path, *, moment: Moment, wanted: str) -> Kill:
    """Start, kill at a moment, resume, compare."""
    began = time.monotonic()
    process = start([*tune, "--out", str(run)], home)
    moment.wait(run, process)
    after, done = time.monotonic() - began, process.poll() is not None
    if not done:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    stage, newest = _where(run)
    if not run.exists() or not (run / "spec.yaml").exists():
        # Killed before there was a run: starting again is all a user can do, and must work in the same place.
        finish([*tune, "--out", str(run)], home) if not run.exists() or not any(run.iterdir()) else finish(
            ["tune", "--resume", str(run)], home
        )
    elif not done:
        finish(["tune", "--resume", str(run)], home)
    return Kill(after, "done" if done else stage, newest, sha256(run / "adapter/adapter_model.safetensors") == wanted, broken_files(run))


def _where(run: Path) -> tuple[str, str]:
    """Stage and newest checkpoint at the moment of death."""
    state = run / "state.json"
    stage = json.loads(state.read_text()).get("stage", "?") if state.exists() else "check"
    steps = sorted(p.name for p in (run / "checkpoints").glob("step-*")) if (run / "checkpoints").exists() else []
    return stage, steps[-1] if steps else "-"


def trials(rows: Path, model: str, *, kills: int, steps: int, seed: int, place: Path, extra: list[str]) -> list[Kill]:
    """An undisturbed run, then `kills` disturbed ones."""
    numbers = [f"train.max_steps={steps}", "train.save_every=4", "train.validate_every=6", "evaluate.rows=4", "evaluate.max_tokens=8"]
    tune = ["tune", str(rows), "--model", model, "--json", *extra, *[part for n in numbers for part in ("--set", n)]]
    began = time.monotonic()
    finish([*tune, "--out", str(place / "undisturbed")], place)
    whole = time.monotonic() - began
    wanted = sha256(place / "undisturbed/adapter/adapter_model.safetensors")
    draw = random.Random(seed)
    found = []
    for number in range(kills):
        # Three of four while training, where a wrong byte could come from; the rest anywhere, by the clock.
        clock = number % 4 == 3
        moment = Moment(0, draw.uniform(0.2, 1.0) * whole) if clock else Moment(draw.randint(1, steps), draw.uniform(0, 0.3))
        kill = once(tune, place / f"killed-{number}", place, moment=moment, wanted=wanted)
        print(
            f"{number + 1:3}  killed after {kill.after:5.1f} s of {whole:.1f}  in {kill.stage:9} newest {kill.checkpoint:12} "
            f"{'byte-equal' if kill.equal else 'DIFFERS'}  {'whole' if not kill.broken else kill.broken}",
            flush=True,
        )
        found.append(kill)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("model")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = trials(asked.rows, asked.model, kills=asked.kills, steps=asked.steps, seed=asked.seed, place=Path(place), extra=[])
    good = sum(kill.good for kill in found)
    print(f"{good} of {len(found)} runs byte-equal and whole")
    return 0 if good == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
