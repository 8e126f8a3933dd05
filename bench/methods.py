#!/usr/bin/env python3
"""How well each way of tuning learns: real public data, fixed held-out rows, three seeds; a Markdown table with mean and spread.

    python bench/methods.py --out bench/results/methods             everything that is not there yet (about 25 minutes on two cores)
    python bench/methods.py --rival VENV/bin/python --add ...        the same by PEFT and TRL, where they offer it: an hour more
    python bench/methods.py --works banking77 --ways lora,head      some of it
    python bench/methods.py --show bench/results/methods            the table again; nothing runs

One JSON file for each work, a line for each cell, written when it is done; a cell that fails is told and the others go on. --add keeps
what is there and runs what is missing, so that what was cut short goes on where it was. What a work is, and how much of its
data it takes, is in ``_methods.py``; --rows takes another share of it. The table is kept in docs/methods.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import _bed

COLUMNS = {
    "banking77": {"accuracy": "accuracy %", "macro_f1": "macro F1 %", "pass_seconds": "seconds a pass"},
    "e2e": {"bleu": "BLEU", "chrf": "chrF"},
    "shakespeare": {
        "plays_before": "nats/token of plays before",
        "plays_after": "after",
        "stories_before": "of stories before",
        "stories_after": "after",
    },
    "preferences": {"reward_accuracy": "reward accuracy %", "margin_nats": "margin in nats"},
    "distillation": {"nats": "nats/token"},
    "digits": {"accuracy": "accuracy %", "macro_f1": "macro F1 %"},
    "spoken": {"accuracy": "accuracy %", "macro_f1": "macro F1 %"},
    "packed": {"linears_mb": "MB of linears", "weights_mb": "of weights", "resident_mb": "resident", "nats": "nats/token of stories"},
}
"""What each work is judged by."""

COSTS = {"moved": "weights moved", "seconds": "seconds of steps", "whole": "seconds in all", "peak_mb": "peak MB"}


def main() -> int:
    asked = _arguments()
    if not (_bed.SHARED / "data").is_dir():
        sys.exit(f"skipped: no data at {_bed.SHARED / 'data'}; set LUTHIER_SHARED")
    if asked.cell:
        print(json.dumps(_cell(asked)))
        return 0
    if asked.show:
        print("\n\n".join(table(file) for file in sorted(asked.show.glob("*.json")) if file.stem in COLUMNS))
        return 0
    if asked.smoke:
        return smoke()
    import _methods

    works = asked.works.split(",") if asked.works else list(_methods.WORKS)
    failed = 0
    for work, way, seed in _methods.cells(works, asked.seeds, rivals=bool(asked.rival)):
        if not asked.ways or way in asked.ways.split(","):
            file = asked.out / f"{work}.json"
            if not (asked.add and any((run["way"], run["seed"]) == (way, seed) for run in _runs(file))):
                found = run(work, way, seed, asked)
                failed += found is None
                if found is not None:
                    keep(file, found)
    for work in works:
        print(table(asked.out / f"{work}.json"), end="\n\n")
    return min(failed, 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", help=f"of {', '.join(COLUMNS)}")
    parser.add_argument("--ways", help="some of the ways of the works, e.g. lora,head")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=float, default=1.0, help="share of each work's usual rows")
    parser.add_argument("--model", default="luthier-mini", help="base of the work packed: a catalog name or a folder")
    parser.add_argument("--rival", default="", help="an interpreter with peft and trl; their result then stands beside ours")
    parser.add_argument("--out", type=Path, default=Path("methods"), help="folder of the results")
    parser.add_argument("--add", action="store_true", help="keep what is in the folder and run what is missing")
    parser.add_argument("--show", type=Path, help="print the tables of the results in this folder; run nothing")
    parser.add_argument("--smoke", action="store_true", help="one cell of every kind at the smallest size; nothing is timed")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    return parser.parse_args()


def run(work: str, way: str, seed: int, asked: argparse.Namespace) -> dict[str, Any] | None:
    """One cell in a process of its own: a peak of memory never falls. None where it failed, which is told."""
    more = ["--rows", str(asked.rows), "--model", asked.model, "--rival", asked.rival]
    command = [sys.executable, __file__, "--cell", f"{work}:{way}:{seed}", *more]
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "LUTHIER_HOME": home}  # nothing from an earlier cell is cached
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"{work} {way} {seed} failed: {done.stderr[-3000:]}", file=sys.stderr, flush=True)
        return None
    found: dict[str, Any] = {"way": way, "seed": seed, "rows": asked.rows} | json.loads(done.stdout.splitlines()[-1])
    print(work, json.dumps(found), file=sys.stderr, flush=True)
    return found


def _cell(asked: argparse.Namespace) -> dict[str, float]:
    import _methods

    work, way, seed = asked.cell.split(":")
    with tempfile.TemporaryDirectory() as place:
        return _methods.WORKS[work][0](_methods.Cell(way, int(seed), Path(place), asked.rows, asked.model, asked.rival))


def _runs(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text(encoding="utf-8"))["runs"] if file.is_file() else []


def keep(file: Path, found: dict[str, Any]) -> None:
    """The cell in the place of an older one of its way and seed."""
    others = [run for run in _runs(file) if (run["way"], run["seed"]) != (found["way"], found["seed"])]
    _bed.write(file, {"work": file.stem}, [*others, found])


def table(file: Path) -> str:
    """Means of all seeds, and the largest distance from the mean where it says something."""
    columns = COLUMNS[file.stem] | COSTS
    lines = [f"| {file.stem} | seeds | " + " | ".join(columns.values()) + " |", "|---" * (len(columns) + 2) + "|"]
    runs = _runs(file)
    known = list(dict.fromkeys(run["way"].partition(" (")[0] for run in runs))
    for way in sorted(dict.fromkeys(run["way"] for run in runs), key=lambda way: known.index(way.partition(" (")[0])):
        mine = [run for run in runs if run["way"] == way]
        cells = [told([run.get(key) for run in mine], plain=key in COSTS) for key in columns]
        lines.append(f"| {way} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def told(values: list[float | None], *, plain: bool) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = statistics.fmean(known)
    if plain:
        return f"{mean:,.0f}"
    return f"{mean:.2f} ± {max(abs(value - mean) for value in known):.2f}"


def smoke() -> int:
    """In one process: nothing is measured."""
    import _methods

    ways = {"banking77": "head", "distillation": "distilled", "packed": "int8"}
    for work, (do, known) in _methods.WORKS.items():
        with tempfile.TemporaryDirectory() as place:
            way = ways.get(work, known[0])
            keep(Path(place) / f"{work}.json", {"way": way, "seed": 0, **do(_methods.Cell(way, 0, Path(place) / "cell", 0.001))})
            print(table(Path(place) / f"{work}.json"), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
