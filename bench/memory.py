#!/usr/bin/env python3
"""How well the memory planner foresees: predicted against measured peak memory, each cell of a grid in processes of its own.

    python bench/memory.py --model MODEL [--shared ../shared] [--only full] [--steps 3] [--save bench/results/memory.json]
    python bench/memory.py --model MODEL --limit 2.2       full tuning into 2.2 GiB: what is chosen, and what it takes

One process plans (no weights are loaded), another takes real steps and writes a checkpoint; its peak is the high-water mark of its resident
set. MODEL is the 135 M shape of `shared/bench/make_model.py`; the bundled base and stories260k are measured beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).absolute().parent
ROWS_PER_STEP = 8


def cells(model: str, shared: Path) -> list[dict[str, Any]]:
    """Method, number format, optimiser, recomputing and forest size; small bases for the constant part."""
    large = [
        ("lora", "bfloat16", "adamw", False, 1024),
        ("lora", "bfloat16", "adamw", True, 1024),
        ("lora", "bfloat16", "adamw", False, 256),
        ("lora", "bfloat16", "adamw", False, 512),
        ("lora", "float32", "adamw", False, 512),
        ("full", "bfloat16", "adamw", False, 1024),
        ("full", "bfloat16", "adamw", False, 256),
        ("full", "bfloat16", "adamw", True, 1024),
        ("full", "bfloat16", "adamw8bit", False, 1024),
        ("full", "bfloat16", "adamw8bit", False, 256),
        ("full", "bfloat16", "layerwise", True, 1024),
        ("full", "float32", "adamw", False, 512),
        ("full", "float32", "layerwise", True, 512),
    ]
    small = [("lora", "bfloat16", "adamw", False, 1024), ("full", "float32", "adamw", False, 512)]
    kinds = [(model, large), ("luthier-mini", small), (str(shared / "models" / "stories260k"), small)]
    names = ("method", "dtype", "optimiser", "recompute", "budget")
    return [{"model": name, **dict(zip(names, cell, strict=True))} for name, grid in kinds if name for cell in grid]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path(os.environ.get("LUTHIER_SHARED") or HERE.parents[1] / "shared"))
    parser.add_argument("--model", default="", help="folder of the 135 M shape; left out, only the small bases are measured")
    parser.add_argument("--smoke", action="store_true", help="one cell, two steps")
    parser.add_argument("--only", default="", help="cells whose line holds this text")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--limit", type=float, default=0.0, help="GiB: one run, planned into this much")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--cell", help="one measurement, as JSON (used by the bench itself)")
    parser.add_argument("--what", choices=("plan", "run"), default="plan")
    asked = parser.parse_args()
    if asked.cell:
        print(json.dumps((foresee if asked.what == "plan" else take)(json.loads(asked.cell), asked)))
        return
    if asked.smoke:
        asked.steps, grid = 2, cells("", asked.shared)[-1:] if asked.shared.is_dir() else sys.exit("skipped: no shared data")
    elif asked.limit:
        grid = [{"model": asked.model, "method": "full", "dtype": "bfloat16", "optimiser": "auto", "recompute": "auto", "budget": "auto"}]
    else:
        grid = [cell for cell in cells(asked.model, asked.shared) if asked.only in line(cell)]
    print(f"{'':<58}{'foreseen':>10}{'measured':>10}{'off':>7}{'s/step':>8}  MiB")
    for cell in grid:
        planned = _alone(cell, "plan", asked)
        result = cell | planned | _alone(cell | planned["way"], "run", asked) | {"model": Path(cell["model"]).name, "limit": asked.limit}
        off = result["foreseen"] / result["measured"] - 1
        keep(result, asked.save)
        print(f"{line(result):<58}{result['foreseen']:>10.0f}{result['measured']:>10.0f}{off:>+7.1%}{result['seconds']:>8.2f}", flush=True)


def keep(result: dict[str, Any], path: Path | None) -> None:
    """Put one result among those of `path`, in the place of an older one of the same cell."""
    if path is None:
        return
    older = json.loads(path.read_text()) if path.is_file() else []
    others = [other for other in older if (line(other), other["limit"]) != (line(result), result["limit"])]
    path.write_text(json.dumps([*others, result], indent=1) + "\n")


def line(cell: dict[str, Any]) -> str:
    way = cell.get("way", cell)
    again = " recompute" if way["recompute"] is True else ""
    return f"{Path(cell['model']).name} {cell['method']} {cell['dtype']} {way['optimiser']} {way['budget']}{again}"


def _alone(cell: dict[str, Any], what: str, asked: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--shared", asked.shared, "--model", asked.model, "--what", what, "--cell", json.dumps(cell)]
    command += ["--steps", asked.steps, "--limit", asked.limit]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def rows_of(shared: Path, renderer: Any, context: int) -> list[Any]:
    """Instructions as the engine wants them, those that fit."""
    from luthier.core.example import Example
    from luthier.core.sequence import Row
    from luthier.data.read import read

    examples = (e for e in read(shared / "bench" / "works" / "instruct.jsonl") if isinstance(e, Example))
    rows = (Row(e.source, renderer.render(e)) for e in examples)
    return list(itertools.islice((row for row in rows if max(len(s.tokens) for s in row.sequences) <= context), 64))


def spec_of(cell: dict[str, Any], steps: int) -> Any:
    from luthier.jobs import specs

    train = {"optimiser": cell["optimiser"], "recompute": cell["recompute"], "tokens_per_pack": cell["budget"]}
    train |= {"rows_per_step": ROWS_PER_STEP, "epochs": 1, "max_steps": steps, "learning_rate": 2e-5, "shuffle": False, "warmup": 0}
    train |= {"schedule": "constant"}
    return specs.gather(model={"name": cell["model"], "dtype": cell["dtype"]}, method=cell["method"], train=train)


def foresee(cell: dict[str, Any], asked: argparse.Namespace) -> dict[str, Any]:
    from luthier.data.render import Renderer
    from luthier.engine.arena import keep_memory
    from luthier.engine.planner import Way, resident
    from luthier.jobs.planning import planner_of
    from luthier.models.config import read_config
    from luthier.models.find import find
    from luthier.models.load import outline

    keep_memory()
    spec, folder = spec_of(cell, asked.steps), find(cell["model"])
    base = outline(read_config(folder), renderer=Renderer.from_folder(folder), dtype=cell["dtype"])
    base.folder = folder
    planner = planner_of(spec, base, rows_of(asked.shared, base.renderer, base.context), program=resident())
    start = time.perf_counter()
    if asked.limit:
        weighed = planner.plan(int(asked.limit * 2**30)).weighed
        for other in weighed:
            print(f"  {other.way}: {other.peak / 2**20:,.0f}", file=sys.stderr)
        need = weighed[-1]
    else:
        need = planner.need(Way(cell["optimiser"], cell["recompute"], cell["budget"]))
    way = {"optimiser": need.way.optimiser, "recompute": need.way.recompute, "budget": need.way.tokens_per_pack}
    parts = {key: value / 2**20 for key, value in dataclasses.asdict(need).items() if key not in ("way", "tokens", "forests")}
    found = {"way": way, "foreseen": need.peak / 2**20, "parts": parts, "tokens": need.tokens, "forests": need.forests}
    return found | {"planning_seconds": time.perf_counter() - start}


def take(cell: dict[str, Any], asked: argparse.Namespace) -> dict[str, Any]:
    from luthier.engine import checkpoint
    from luthier.jobs import training
    from luthier.models.load import load

    spec = spec_of(cell, asked.steps)
    model = load(cell["model"], dtype=cell["dtype"])
    rows = rows_of(asked.shared, model.renderer, model.context)
    method = training.attach(spec, model)
    session = training.new_session(spec, model, method, rows=rows, valid=rows)
    steps = [session.advance() for _ in range(session.steps)]
    with tempfile.TemporaryDirectory() as place:
        state = {"weights": method.state(model), "optimiser": session.optimiser.state()}
        checkpoint.save(Path(place), **state, progress=checkpoint.Progress(step=session.step))
    return {"measured": peak(), "seconds": sum(s.seconds for s in steps[1:]) / (len(steps) - 1), "losses": [s.loss for s in steps]}


def peak() -> float:
    """High-water mark of this process's resident set, in MiB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) / 1024 for text in status if text.startswith("VmHWM"))


if __name__ == "__main__":
    main()
