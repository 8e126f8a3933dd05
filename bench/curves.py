#!/usr/bin/env python3
"""What a token costs as a run grows: by context and by rank, measured on the engine's own steps (135 M Llama, random weights, LoRA).

    python bench/curves.py --save bench/results/curves.json     measure
    python bench/curves.py --draw docs/pictures                  draw every curve whose results are there, other benches' too

Context: rows of 128 to 8,192 random tokens with nothing in common, at least 1,024 tokens a step. Rank: 4 to 256, eight rows of 128. Points
are measured in turn, a step each, so that a slow phase hits all of them; the figure is the median over the turns after the first. Leave the
machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import _bed
import _chart

from luthier.engine.arena import keep_memory
from luthier.engine.session import Session

RESULTS = Path(__file__).absolute().parent / "results"
CONTEXTS = (128, 256, 512, 1024, 2048, 4096, 8192)
RANKS = (4, 8, 16, 32, 64, 128, 256)
TOKENS_PER_STEP = 1024  # a pack of the engine; longer rows come alone


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", default="context,rank")
    parser.add_argument("--turns", type=int, default=4, help="the first is not counted")
    parser.add_argument("--save", type=Path, help="JSON of every point; curves measured before are kept")
    parser.add_argument("--draw", type=Path, help="write the charts into this folder instead of measuring")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, nothing meant by the times")
    asked = parser.parse_args()
    if asked.draw:
        return draw(asked.draw)
    keep_memory()
    points = [p for curve in asked.curves.split(",") for p in measure(curve, turns=2 if asked.smoke else asked.turns, smoke=asked.smoke)]
    if asked.save:
        old = json.loads(asked.save.read_text())["runs"] if asked.save.is_file() else []
        kept = [p for p in old if p["curve"] not in asked.curves.split(",")]
        _bed.write(asked.save, {"model": "135 M Llama, random weights", "method": "lora"}, kept + points)
    if asked.smoke:
        _chart.chart("smoke", {"ours": [(p["at"], p["ms_per_token"]) for p in points]}, x="", y="")
    return 0


def measure(curve: str, *, turns: int, smoke: bool) -> list[dict[str, Any]]:
    """Seconds of a step at every point of a curve, the points in turn."""
    sessions = {at: _session(curve, at, turns, smoke) for at in (CONTEXTS if curve == "context" else RANKS)[: 2 if smoke else None]}
    seconds: dict[int, list[float]] = {at: [] for at in sessions}
    tokens: dict[int, int] = {}
    for _ in range(turns):
        for at, session in sessions.items():
            stepped = session.advance()
            seconds[at].append(round(stepped.seconds, 4))
            tokens[at] = stepped.tokens
    points = []
    for at, found in seconds.items():
        cost = [s / tokens[at] * 1e3 for s in found[1:]]
        points.append({"curve": curve, "at": at, "tokens": tokens[at], "ms_per_token": round(statistics.median(cost), 4), "seconds": found})
        print(f"{curve} {at:>6}: {statistics.median(cost):.3f} ms a token ({min(cost):.3f} to {max(cost):.3f})", flush=True)
    return points


def _session(curve: str, at: int, turns: int, smoke: bool) -> Session:
    length = at if curve == "context" else 128
    rows = max(1, TOKENS_PER_STEP // length)
    model = _bed.base(smoke=smoke)
    return _bed.session(model, _bed.made_up(rows * turns, length), rows_per_step=rows, rank=16 if curve == "context" else at)


def draw(folder: Path) -> int:
    """The charts of every result that is there."""
    pictures = {**_own(RESULTS / "curves.json"), **_sharing(RESULTS / "sharing.json"), **_data(RESULTS / "data_rows.json")}
    if not pictures:
        sys.exit("skipped: no results")
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (folder / f"{name}.svg").write_text(picture, encoding="utf-8")
        print(folder / f"{name}.svg")
    return 0


def _own(file: Path) -> dict[str, str]:
    """Cost by context and by rank, each beside a straight line."""
    runs = json.loads(file.read_text())["runs"] if file.is_file() else []
    pictures = {}
    for curve, x in (("context", "tokens a row"), ("rank", "rank")):
        points = sorted((p["at"], p["ms_per_token"]) for p in runs if p["curve"] == curve)
        if points:
            lines = {"measured": points, "straight line": straight(points)}
            title = f"Cost of a token by {curve}"
            pictures[f"cost-{curve}"] = _chart.chart(title, lines, x=x, y="ms a token", dashed=("straight line",))
    return pictures


def _sharing(file: Path) -> dict[str, str]:
    """What ``sharing.py`` found: cost by rows a step, and tokens laid out by the share of a row that is a common prompt."""
    runs = json.loads(file.read_text())["runs"] if file.is_file() else []
    rows = [run for run in runs if run["part"] == "rows"]
    cost: dict[str, _chart.Points] = {}
    laid: dict[str, _chart.Points] = {}
    for row in rows:
        if "ms_per_true_token" in row:
            cost.setdefault(f"{row['share']:.0%} shared", []).append((row["rows_per_step"], row["ms_per_true_token"]))
        if row["rows_per_step"] in (2, 8, 64):
            laid.setdefault(f"{row['rows_per_step']} rows a step", []).append((100 * row["share"], 100 * row["laid_of_true"]))
    if not rows:
        return {}
    return {
        "cost-rows": _chart.chart("Cost of a token by rows a step, rows of 128 tokens", cost, x="rows a step", y="ms a true token"),
        "laid-out": _chart.chart("Tokens laid out of 100 true ones", laid, x="% of a row that is a common prompt", y="tokens", log=False),
    }


def _data(file: Path) -> dict[str, str]:
    """What ``data.py --rows`` found: time and memory by rows of the file."""
    runs = json.loads(file.read_text())["runs"] if file.is_file() else []
    if not runs:
        return {}
    names = {"check_s": "check", "both_s": "check + tokenise"}
    time: dict[str, _chart.Points] = {name: [(run["rows"], 1e6 * run[key] / run["rows"]) for run in runs] for key, name in names.items()}
    memory: dict[str, _chart.Points] = {"check + tokenise": [(run["rows"], run["peak_mb"]) for run in runs]}
    return {
        "data-rows": _chart.chart("Cost of a row by rows of the file, 704 bytes each", time, x="rows", y="us a row"),
        "data-memory": _chart.chart("Peak memory by rows of the file, workers included", memory, x="rows", y="MB"),
    }


def straight(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The line ``a + b x`` of least relative error: what the cost is if each token more on the path, or each rank more, costs the same."""
    import numpy as np

    x, y = (np.array(v, float) for v in zip(*points, strict=True))
    slope, start = np.polyfit(x, y, 1, w=1 / y)
    return [(float(v), float(start + slope * v)) for v in np.geomspace(x[0], x[-1], 60)]


if __name__ == "__main__":
    sys.exit(main())
