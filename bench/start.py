"""From the command to the first step, with everything cached: where the seconds go.

    python bench/start.py [--model luthier-mini] [--repeat 3] [--file FILE] [--out results/start.json]

Each measurement is the command `luthier tune FILE` in a process of its own, ended after its first step; the first one fills the caches
(byte code, token table, verdict on the template) and is shown, but not counted. The clock begins before the process does.
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
from typing import Any

SAMPLES = Path(__file__).parents[1] / "src" / "luthier" / "data" / "samples"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="luthier-mini")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--file", type=Path, default=SAMPLES / "desk.jsonl")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true", help="two commands")
    asked, rest = parser.parse_known_args()
    if asked.child:
        timed(asked.child, rest)
        return
    with tempfile.TemporaryDirectory() as home:
        runs = [one(asked.file, asked.model, Path(home), number) for number in range(2 if asked.smoke else asked.repeat + 1)]
    names = list(dict.fromkeys(name for run in runs for name in run))
    print(f"{'until the end of':<16}{'first':>8}" + "".join(f"{number:>8}" for number in range(1, len(runs))) + f"{'median':>9}")
    for name in names:
        print(f"{name:<16}" + "".join(f"{run.get(name, 0):>8.2f}" for run in runs) + f"{median(runs, name):>9.2f}")
    total = statistics.median(sum(run.values()) for run in runs[1:])
    print(f"{'in all':<16}" + "".join(f"{sum(run.values()):>8.2f}" for run in runs) + f"{total:>9.2f}")
    if asked.out:
        asked.out.write_text(json.dumps({"model": asked.model, "file": asked.file.name, "seconds": total, "runs": runs}, indent=1) + "\n")


def median(runs: list[dict[str, float]], name: str) -> float:
    return statistics.median(run.get(name, 0.0) for run in runs[1:])


def one(file: Path, model: str, home: Path, number: int) -> dict[str, float]:
    """Seconds by stage of one command."""
    words = ["tune", str(file), "--model", model, "--out", str(home / f"run-{number}")]
    environment = {**os.environ, "LUTHIER_HOME": str(home)}
    command = [sys.executable, __file__, "--child", str(time.time()), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def timed(began: float, words: list[str]) -> None:
    """Run the command here, note when each stage ends, and leave after the first step."""
    ends: list[tuple[str, float]] = [("python", time.time())]
    from luthier.cli.main import main as luthier

    ends.append(("import cli", time.time()))
    from luthier.jobs import run

    ends.append(("import jobs", time.time()))
    tune, stage = run.tune, ["model"]

    def listening(*values: Any, listen: Any, **named: Any) -> Any:
        def heard(event: Any) -> None:
            if event.kind == "stage":
                ends.append((stage[0], time.time()))
                stage[0] = event.name
            if event.kind == "stepped":
                ends.append(("first step", time.time()))
                starts = [began, *(end for _, end in ends)]
                told: dict[str, float] = {}
                for (name, end), start in zip(ends, starts, strict=False):
                    told[name] = told.get(name, 0.0) + end - start
                sys.stdout.write(json.dumps(told) + "\n")
                sys.stdout.flush()
                os._exit(0)
            listen(event)

        return tune(*values, listen=heard, **named)

    run.tune = listening
    sys.argv[1:] = words
    luthier()


if __name__ == "__main__":
    main()
