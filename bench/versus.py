#!/usr/bin/env python3
"""Run Luthier beside its rivals, with the rivals' own harness (``shared/bench``), and print the table of figures.

    python bench/versus.py --model MODEL --venvs "trl=A/bin/python, llamafactory=B/bin/python, litgpt=C/bin/python" --save FOLDER
    python bench/versus.py --jobs support32,long --rivals all --repeat 1 ...       which rival is best, at which settings
    python bench/versus.py --show FOLDER                                           the table again

The harness looks for contenders in its own folder, which is read-only: it is copied to a temporary one, and ours (``contender.py``,
``contenders/``) are laid beside the others. ``make_model.py`` of the same folder writes MODEL. One turn runs every contender of every job
once, in fresh processes; turns follow each other until every contender has --repeat valid runs (others used less than 0.3 cores), so that a
slow phase of the machine hits all of them. Leave the machine alone meanwhile. --prefix names a command that runs each turn of a job, such
as one that holds a lock on the machine; --split gives each contender a call of its own. --add goes on where an earlier call ended.

The limit is what ``peak.py`` of the harness measures in front of every call: the rate of a block's bf16 matmuls at 1,024 tokens. A run's
share is that of the limit just before it, since the machine drifts; the table has the median of the shares.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _bed

HERE = Path(__file__).absolute().parent

LORA = (
    "llamafactory_sft --micro 2 --malloc keep",
    "trl_sft --micro 2 --malloc keep",
    "trl_sft --packing --malloc keep",
    "litgpt_lora --micro 2 --malloc keep",
)
FULL = (
    "litgpt_full --micro 2 --malloc keep --precision bf16-true",  # all bf16: small updates are lost
    "litgpt_full --micro 2 --malloc keep",  # fp32 weights and moments, bf16 arithmetic, as ours and the following
    "llamafactory_full --micro 2 --malloc keep",
    "trl_full --micro 2 --malloc keep",
    "trl_full --micro 2 --malloc keep --dtype bfloat16 --autocast 0",  # all bf16
)
PAIRS = ("trl_dpo --micro 2 --malloc keep", "trl_dpo --micro 1 --malloc keep", "trl_dpo --micro 2 --malloc keep --autocast 0")
"""Fastest first (bench/results/choice, and the harness's own README)."""

LOSS_TOLERANCE = 0.006  # nats; the harness's own: bf16 noise of the first loss


@dataclass(frozen=True)
class Job:
    """A line of the table: a work of the harness, how it is cut into steps, and who takes part.

    Attributes:
        best: how many of the first rivals are the best ones: a second one where the first holds less exact numbers than ours.
    """

    work: str
    rivals: tuple[str, ...]
    rows: int = 64
    rows_per_step: int = 8
    full: bool = False
    best: int = 1

    @property
    def ours(self) -> tuple[str, ...]:
        if self.work == "pairs":
            return ("luthier_tune --objective dpo",)
        lean = [f"luthier_tune --method full --optimiser {name}" for name in ("adamw8bit", "layerwise")]
        return ("luthier_tune --method full", *lean) if self.full else ("luthier_tune",)

    def flop_per_token(self, shape: dict[str, Any], learned: float) -> float:
        """What a step needs per true token if nothing is wasted or shared: 2 FLOP a weight forward, 2 backward, 2 more where it is trained.

        Args:
            learned: share of the tokens that are learned; only those need the head.

        Pairs are read by the reference, too: 2 FLOP more.
        """
        width, inner, blocks = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
        narrow = width // shape["num_attention_heads"] * shape["num_key_value_heads"]
        weights = blocks * (2 * width * width + 2 * width * narrow + 3 * width * inner)
        return (6 if self.full or self.work == "pairs" else 4) * (weights + shape["vocab_size"] * width * learned)


JOBS = {
    "instruct": Job("instruct", LORA),
    "support": Job("support", LORA),
    "support32": Job("support", LORA, rows_per_step=32),
    "long": Job("long", LORA, rows=32),
    "full": Job("instruct", FULL, full=True, best=2),
    "pairs": Job("pairs", PAIRS, rows=32),
}


def main() -> int:
    asked = _arguments()
    if asked.show:
        for file in sorted(asked.show.glob("*.json"), key=lambda f: (*JOBS, f.stem).index(f.stem)):
            print(table(json.loads(file.read_text()), asked.shared))
        return 0
    with tempfile.TemporaryDirectory() as place:
        bench = lay_out(asked.shared, Path(place))
        if asked.smoke:
            return smoke(bench, asked.shared)
        return measure(asked, bench)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=_bed.SHARED)
    parser.add_argument("--model", type=Path, help="folder written by the harness's make_model.py")
    parser.add_argument("--venvs", default="", help="start of a contender's name = interpreter that has it, comma-separated")
    parser.add_argument("--jobs", default=",".join(JOBS), help=f"of {', '.join(JOBS)}")
    parser.add_argument("--rivals", default="best", help="best, all, none, or entries of the harness, comma-separated")
    parser.add_argument("--ours", help="our entry with its options, e.g. 'luthier_tune --pack 512'; none to leave it out")
    parser.add_argument("--rows", type=int, help="counted rows; every job has its own number")
    parser.add_argument("--rows-per-step", type=int)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--prefix", default="", help="command in front of every call of the harness")
    parser.add_argument("--split", action="store_true", help="a call of the harness for each contender")
    parser.add_argument("--save", type=Path, default=Path("versus"), help="folder for the runs, a file for each job")
    parser.add_argument("--add", action="store_true", help="keep the runs that are in the folder, and count them")
    parser.add_argument("--show", type=Path, help="print the table of the runs in this folder; run nothing")
    parser.add_argument("--smoke", action="store_true", help="our contender once at the smallest setting; nothing is timed")
    asked = parser.parse_args()
    if not (asked.show or asked.smoke or asked.model):
        parser.error("--model is needed")
    return asked


def lay_out(shared: Path, place: Path) -> Path:
    """A copy of the harness with our contenders in it."""
    if not (shared / "bench").is_dir():
        sys.exit(f"skipped: no harness at {shared / 'bench'}; set LUTHIER_SHARED")
    bench = place / "bench"
    shutil.copytree(shared / "bench", bench)
    os.chmod(bench / "contenders", 0o755)
    shutil.copyfile(HERE / "contender.py", bench / "contenders" / "luthier_tune.py")
    for file in (HERE / "contenders").glob("*.py"):
        shutil.copyfile(file, bench / "contenders" / file.name)
    return bench


def measure(asked: argparse.Namespace, bench: Path) -> int:
    """Turn after turn, until every contender has its valid runs or twice the turns did not do."""
    asked.save.mkdir(parents=True, exist_ok=True)
    records = {name: _record(asked, name) for name in asked.jobs.split(",")}
    for turn in range(2 * asked.repeat):
        missing = {name: _missing(record, asked.repeat) for name, record in records.items()}
        if not any(missing.values()):
            break
        for name, entries in missing.items():
            if not entries:
                continue
            for call in [[e] for e in entries] if asked.split else [entries]:
                found = _call(asked, bench, records[name], call)
                limit = records[name]["limits"][-1]
                records[name]["runs"] += [{**run, "turn": turn, "limit": limit, "commit": _commit()} for run in found]
            _bed.write(asked.save / f"{name}.json", {k: v for k, v in records[name].items() if k != "runs"}, records[name]["runs"])
            print(f"turn {turn + 1}\n{table(records[name], asked.shared)}", flush=True)
    return any(_missing(record, asked.repeat) for record in records.values())


def _record(asked: argparse.Namespace, name: str) -> dict[str, Any]:
    job = JOBS[name]
    chosen = {"best": list(job.rivals[: job.best]), "all": list(job.rivals), "none": []}
    entries = chosen[asked.rivals] if asked.rivals in chosen else [e.strip() for e in asked.rivals.split(",")]
    ours = {None: job.ours, "none": ()}.get(asked.ours, (asked.ours,))
    record = {
        "job": name,
        "work": job.work,
        "rows": asked.rows or job.rows,
        "rows_per_step": asked.rows_per_step or job.rows_per_step,
        "entries": [*entries, *ours],
        "limits": [],
        "runs": [],
    }
    file = asked.save / f"{name}.json"
    if asked.add and file.is_file():
        old = json.loads(file.read_text())
        if (old["rows"], old["rows_per_step"]) != (record["rows"], record["rows_per_step"]):
            sys.exit(f"{file} was measured with {old['rows']} rows, {old['rows_per_step']} a step")
        record |= {"limits": old["limits"], "runs": old["runs"]}
    return record


def _missing(record: dict[str, Any], repeat: int) -> list[str]:
    return [entry for entry in record["entries"] if sum(run["entry"] == entry for run in record["runs"]) < repeat]


def _call(asked: argparse.Namespace, bench: Path, record: dict[str, Any], entries: list[str]) -> list[dict[str, Any]]:
    """One call of the harness, behind one look at the limit: one valid run of each entry, or fewer where the machine was not quiet."""
    found, peak = bench / "found.json", bench / "peak.json"
    for file in (found, peak):
        file.unlink(missing_ok=True)
    look = [sys.executable, bench / "peak.py", "--tokens", 1024, "--out", peak]
    run = [sys.executable, bench / "run.py", "--work", record["work"], "--model", asked.model.absolute(), "--rows", record["rows"]]
    run += ["--rows-per-step", record["rows_per_step"], "--contenders", ", ".join(entries), "--venvs", asked.venvs]
    run += ["--repeat", 1, "--patience", 30, "--save", found]
    both = " && ".join(shlex.join(map(str, command)) for command in (look, run))
    done = subprocess.run([*shlex.split(asked.prefix), "sh", "-c", both], stdout=subprocess.DEVNULL)
    if peak.exists():
        record["limits"].append(json.loads(peak.read_text())["bfloat16 1024"]["layer"])
    if not found.exists():
        sys.exit(f"{record['job']}: the harness ended with {done.returncode}")
    runs: list[dict[str, Any]] = json.loads(found.read_text())
    return runs


def _commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def table(record: dict[str, Any], shared: Path) -> str:
    """The runs of one job as a Markdown table; ratios are to the fastest rival."""
    job, by_entry = JOBS[record["job"]], {}
    for run in record["runs"]:
        by_entry.setdefault(run["entry"], []).append(run)
    lines = [
        f"\n{record['job']}: {record['work']}, {record['rows']} rows, {record['rows_per_step']} a step\n",
        "| contender | runs | tokens/s | of the best rival | spread | share of limit | peak MB | of the best rival | first loss |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    speeds = {entry: statistics.median(r["tokens_per_s"] for r in runs) for entry, runs in by_entry.items()}
    peaks = {entry: statistics.median(r["peak_rss_mb"] for r in runs) for entry, runs in by_entry.items()}
    rivals = [entry for entry in by_entry if not entry.startswith("luthier")] or list(by_entry)
    best = max(rivals, key=lambda entry: speeds[entry], default="")
    shape = json.loads((shared / "bench" / "works" / "model.json").read_text())
    for entry, runs in by_entry.items():
        spread = (max(r["tokens_per_s"] for r in runs) - min(r["tokens_per_s"] for r in runs)) / speeds[entry]
        needed = job.flop_per_token(shape, runs[0]["learned_tokens"] / runs[0]["tokens"])
        share = statistics.median(r["tokens_per_s"] * needed / (r.get("limit", float("nan")) * 1e9) for r in runs)
        off = "" if abs(runs[0]["first_loss"] - by_entry[best][0]["first_loss"]) <= LOSS_TOLERANCE else " (differs)"
        lines.append(
            f"| `{entry}` | {len(runs)} | {speeds[entry]:,.1f} | {speeds[entry] / speeds[best]:.2f} | {spread:.0%} "
            f"| {share:.0%} | {peaks[entry]:,.0f} | {peaks[entry] / peaks[best]:.2f} "
            f"| {runs[0]['first_loss']:.4f}{off} |"
        )
    return "\n".join(lines)


def smoke(bench: Path, shared: Path) -> int:
    """Our contender as the harness would call it, both methods, two rows of the bundled base; the table must come out."""
    from luthier.models.find import find

    for name in ("instruct", "full", "pairs"):
        out, (script, *options) = bench / f"{name}.json", JOBS[name].ours[-1].split()
        command = [sys.executable, bench / "contenders" / f"{script}.py", "--work", JOBS[name].work, "--model", find("luthier-mini")]
        command += ["--rows", 2, "--rows-per-step", 1, "--warm-steps", 1, "--out", out, *options]
        subprocess.run([str(part) for part in command], check=True)
        run = json.loads(out.read_text()) | {"entry": JOBS[name].ours[-1]}
        print(table({"job": name, "work": JOBS[name].work, "rows": 2, "rows_per_step": 1, "limits": [], "runs": [run]}, shared))
    return 0


if __name__ == "__main__":
    sys.exit(main())
