#!/usr/bin/env python3
"""One process with all threads against several with fewer: tokens a second and memory of the same training.

    python bench/processes.py --model MODEL [--work instruct,support] [--processes 1,2] [--repeat 3] [--steps 6]

Each measurement is a whole `train_only` in a process of its own, interleaved. Speed: true tokens of the steps after the second over their
seconds. Memory: largest sum, over the processes of the run, of what each holds (PSS: shared pages are divided among their holders).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

WARM = 2
"""Steps not counted: memory still grows in the second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="luthier-mini", help="a folder, or a name from the catalog")
    parser.add_argument("--shared", type=Path, default=Path(__file__).parents[2] / "shared")
    parser.add_argument("--work", default="instruct,support")
    parser.add_argument("--processes", default="1,2")
    parser.add_argument("--rows-per-step", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="once at the smallest size: does it still run?")
    parser.add_argument("--once", nargs=3, metavar=("FILE", "PROCESSES", "OUT"), help="one training (used by the bench itself)")
    asked = parser.parse_args()
    if asked.once:
        train(asked, *asked.once)
        return
    if asked.smoke:
        asked.work, asked.steps, asked.rows_per_step, asked.repeat = "smoke", 3, 2, 1
    print(f"{'work':<10}{'processes':>10}{'tokens/s':>10}{'ratio':>7}{'memory MB':>11}{'first loss':>12}")
    for work in asked.work.split(","):
        found: dict[int, list[tuple[float, float, float]]] = {int(n): [] for n in asked.processes.split(",")}
        for _ in range(asked.repeat):
            for processes, runs in found.items():
                runs.append(measure(asked, work, processes))
                print(f"{work} with {processes}: {runs[-1]}", file=sys.stderr, flush=True)
        plain = statistics.median(run[0] for run in next(iter(found.values())))
        for processes, runs in found.items():
            speed, memory, loss = (statistics.median(run[i] for run in runs) for i in range(3))
            print(f"{work:<10}{processes:>10}{speed:>10.1f}{speed / plain:>7.2f}{memory:>11.0f}{loss:>12.4f}", flush=True)


def measure(asked: argparse.Namespace, work: str, processes: int) -> tuple[float, float, float]:
    """Tokens a second, megabytes, first loss."""
    with tempfile.TemporaryDirectory() as place:
        out, file = Path(place) / "run", asked.shared / "bench" / "works" / f"{work}.jsonl"
        if work == "smoke":
            file = Path(place) / "rows.jsonl"
            turns = [{"role": "user", "content": "How long does it take?"}, {"role": "assistant", "content": "Two days."}]
            lines = ({"messages": [{**turn, "content": f"{turn['content']} {i}"} for turn in turns]} for i in range(12))
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        numbers = ["--steps", str(asked.steps), "--rows-per-step", str(asked.rows_per_step)]
        command = [sys.executable, __file__, "--model", asked.model, *numbers, "--once", str(file), str(processes), str(out)]
        child = subprocess.Popen(command, env={**os.environ, "LUTHIER_HOME": str(Path(place) / "home")}, stdout=subprocess.DEVNULL)
        peak = 0.0
        while child.poll() is None:
            peak = max(peak, held(child.pid))
            time.sleep(0.2)
        if child.returncode:
            sys.exit(child.returncode)
        lines = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["kind"] == "stepped"]
        counted = steps[WARM:]
        return sum(s["tokens"] for s in counted) / sum(s["seconds"] for s in counted), peak / 1e6, steps[0]["loss"]


def held(pid: int) -> float:
    """Bytes held by a process and its children."""
    total = 0.0
    try:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.NoSuchProcess:
        pass
    return total


def train(asked: argparse.Namespace, file: str, processes: str, out: str) -> None:
    from luthier.jobs import specs
    from luthier.jobs.run import train_only

    settings = [
        f"train.processes={processes}",
        f"train.rows_per_step={asked.rows_per_step}",
        f"train.max_steps={asked.steps}",
        "train.shuffle=false",
        "train.save_every=1000",
        "train.validate_every=1000",
        "data.valid=0",
    ]
    train_only(specs.gather(data=file, model=asked.model, settings=settings), out=Path(out))


if __name__ == "__main__":
    main()
