#!/usr/bin/env python3
"""What each trick of the engine brings: switched off alone, and switched on alone where everything else is plain.

    python bench/ablation.py --save bench/results/ablation.json
    python bench/ablation.py --show bench/results/ablation.json      the table again

The engine's own steps on a 135 M Llama of random weights, LoRA rank 16, the first rows of the harness's works, eight a step. The variants
of one table run in one process, a step each in turn, so that a slow phase hits all of them; the figure is the median over the turns after
the first. (Without kept memory the whole process differs, so that has one of its own.) Peaks of memory come from a process for each.
Every variant must show the same first loss, gradient and later losses within rounding. --prefix names a command in front of every timed
process, such as one that holds a lock on the machine. ``_tricks.py`` says what stands in the place of what.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _bed
from _tricks import TRICKS, fallen, standing, without

from luthier.engine.arena import keep_memory
from luthier.engine.session import Session

LOSS_TOLERANCE, NORM_TOLERANCE = 0.006, 0.03
"""Nats, as in the harness; share of the gradient's length: bf16 keeps 8 bits of it."""

ALONE = 8  # tokens a pack may hold where every row is to lie alone


@dataclass(frozen=True)
class Variant:
    """Which tricks are off, and how many tokens a pack may hold (0 is the engine's own number)."""

    name: str
    off: frozenset[str] = frozenset()
    tokens_per_pack: int = 0

    @property
    def pack(self) -> int:
        return ALONE if "packs" in self.off else self.tokens_per_pack


def variants() -> dict[str, list[Variant]]:
    """The tables by name."""
    every = frozenset(TRICKS)
    return {
        "off": [
            Variant("everything"),
            *(Variant(_named("without", fallen(name), name), fallen(name)) for name in TRICKS),
            *(Variant(f"packs of {size}", tokens_per_pack=size) for size in (256, 512, 1024, 2048)),
        ],
        "on": [Variant("plain", every), *(Variant(_named("only", standing(name), name), every - standing(name)) for name in TRICKS)],
    }


def _named(word: str, names: frozenset[str], first: str) -> str:
    return ", ".join([f"{word} {first}", *sorted(names - {first})])


def main() -> int:
    asked = _arguments()
    if asked.measure:
        named = {v.name: v for table in variants().values() for v in table}
        chosen = [named[name] for name in json.loads(asked.measure)]
        print(json.dumps(measure(chosen, asked.works, turns=asked.turns)))
        return 0
    if asked.show:
        runs = json.loads(asked.show.read_text())["runs"]
    elif asked.smoke:
        runs = [
            r | {"work": "support", "table": t} for t, table in variants().items() for r in measure(table, "support", turns=2, smoke=True)
        ]
    else:
        runs = [run for work in asked.works.split(",") for name in asked.tables.split(",") for run in _table(asked, work, name)]
    wrong = 0
    for work, name in dict.fromkeys((run["work"], run["table"]) for run in runs):
        wrong += show([run for run in runs if (run["work"], run["table"]) == (work, name)])
    return wrong


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--works", default="instruct,support")
    parser.add_argument("--tables", default="off,on")
    parser.add_argument("--parts", default="time,memory")
    parser.add_argument("--turns", type=int, default=4, help="the first is not counted")
    parser.add_argument("--prefix", default="", help="command in front of every timed process")
    parser.add_argument("--save", type=Path, help="JSON of every variant; what was measured before is kept")
    parser.add_argument("--show", type=Path, help="print the tables of this file; run nothing")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, all in one process; equality is checked, nothing is timed")
    parser.add_argument("--measure", metavar="JSON", help="names of variants to run in this process (used by the bench itself)")
    return parser.parse_args()


def _table(asked: argparse.Namespace, work: str, name: str) -> list[dict[str, Any]]:
    """Every variant of one table on one work: times from shared processes, peaks from one for each."""
    table = [v.name for v in variants()[name]]
    old = json.loads(asked.save.read_text())["runs"] if asked.save and asked.save.is_file() else []
    found = {r["variant"]: r for r in old if (r["work"], r["table"]) == (work, name)}
    if "time" in asked.parts:
        kept = [v.name for v in variants()[name] if "kept memory" not in v.off]
        for together in (kept, [v for v in table if v not in kept]):
            for run in _process(asked, work, together, asked.turns, asked.prefix):
                found[run["variant"]] = run | {"peak_mb": found.get(run["variant"], {}).get("peak_mb", 0)}  # many in one process
    if "memory" in asked.parts:
        for variant in table:
            alone = _process(asked, work, [variant], 2, "")[0]
            found[variant] = alone | found.get(variant, {}) | {"peak_mb": alone["peak_mb"]}
    runs = [{"work": work, "table": name, **found[v]} for v in table]
    if asked.save:
        others = [r for r in old if (r["work"], r["table"]) != (work, name)]
        _bed.write(asked.save, {"model": "135 M Llama, random weights", "method": "lora rank 16", "rows_per_step": 8}, others + runs)
    return runs


def _process(asked: argparse.Namespace, work: str, names: list[str], turns: int, prefix: str) -> list[dict[str, Any]]:
    command = [*shlex.split(prefix), sys.executable, __file__, "--measure", json.dumps(names), "--works", work, "--turns", str(turns)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    runs: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return runs


def measure(chosen: list[Variant], work: str, *, turns: int, smoke: bool = False) -> list[dict[str, Any]]:
    """Steps of every variant in turn, in this process."""
    if all("kept memory" not in v.off for v in chosen):
        keep_memory()
    rows_per_step = 2 if smoke else 8
    rows = _bed.work(work, rows_per_step * turns, vocabulary=_bed.SMOKE["vocab_size"] if smoke else _bed.SHAPE["vocab_size"])
    sessions: dict[str, Session] = {}
    for variant in chosen:
        with without(variant.off):
            model = _bed.base(smoke=smoke, dtype="float32" if "bfloat16" in variant.off else "bfloat16")
            sessions[variant.name] = _bed.session(model, rows, rows_per_step=rows_per_step, tokens_per_pack=variant.pack)
    stepped: dict[str, list[Any]] = {v.name: [] for v in chosen}
    for _ in range(turns):
        for variant in chosen:
            with without(variant.off):
                stepped[variant.name].append(sessions[variant.name].advance())
                settle(sessions[variant.name])
    return [
        {
            "variant": name,
            "tokens_per_s": round(statistics.median(s.tokens / s.seconds for s in steps[1:]), 1),
            "losses": [round(s.loss, 5) for s in steps],
            "norms": [round(s.gradient_norm, 5) for s in steps],
            "seconds": [round(s.seconds, 3) for s in steps],
            "peak_mb": round(_bed.peak_mb()),
        }
        for name, steps in stepped.items()
    ]


def settle(session: Session) -> None:
    """Let the plan of the next step be finished here, not while another variant computes, or is off."""
    if session.ahead._next is not None:
        session.ahead._next.join()


def show(runs: list[dict[str, Any]]) -> int:
    """One table as Markdown; returns how many of its variants computed something else."""
    first, wrong = runs[0], 0
    print(f"\n{first['work']}, {'one trick off' if first['table'] == 'off' else 'one trick on'}\n")
    print(f"| variant | tokens/s | of {first['variant']} | peak MB | of {first['variant']} | first loss |\n|---|---|---|---|---|---|")
    for run in runs:
        same = equal(run, first)
        wrong += not same
        peaks = f"{run['peak_mb']:,} | {run['peak_mb'] / first['peak_mb']:.2f}" if run["peak_mb"] and first["peak_mb"] else " | "
        print(
            f"| {run['variant']} | {run['tokens_per_s']:,.0f} | {run['tokens_per_s'] / first['tokens_per_s']:.2f} "
            f"| {peaks} | {run['losses'][0]:.4f}{'' if same else ' DIFFERS'} |"
        )
    return wrong


def equal(run: dict[str, Any], first: dict[str, Any]) -> bool:
    """The same losses and lengths of the gradient within rounding, at every step both did."""
    losses: Iterable[tuple[float, float]] = zip(run["losses"], first["losses"], strict=False)
    norms: Iterable[tuple[float, float]] = zip(run["norms"], first["norms"], strict=False)
    near = all(abs(a - b) <= LOSS_TOLERANCE for a, b in losses)
    return near and all(abs(a / b - 1) <= NORM_TOLERANCE for a, b in norms)


if __name__ == "__main__":
    sys.exit(main())
