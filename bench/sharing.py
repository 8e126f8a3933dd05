#!/usr/bin/env python3
"""What sharing, packing and planning cost and save: counted, then timed through the real session (135 M Llama, random weights, LoRA).

    python bench/sharing.py --save bench/results/sharing.json
    python bench/sharing.py --parts count

count     tokens laid out, forests and pieces of attention for real steps: the works of the rivals' benchmark, and nested rows
context   attention computed against attention needed and against T x T, for rows of 128 to 32,768 tokens (`curves.py` has their time)
rows      cost of a true token against rows per step (1 to 64) and the share of a row that is a common prompt (0 to 90 %)
planning  time to plan a step, time a step waited for its plan, and what planning beside a step costs it
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import _bed
import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence
from luthier.engine.ahead import planned
from luthier.engine.arena import keep_memory
from luthier.engine.pack import packs
from luthier.engine.tree import Pack
from luthier.models.model import Model

ROW = 128
"""Tokens of a row in the curve over rows: the median of instruction data."""

SYSTEM = "You answer questions about a subject. Choose one of the four answers, and write nothing but the answer itself."


def row(tokens: NDArray[Any], learned: int, number: int = 0) -> Row:
    """One path of which the last `learned` tokens are learned."""
    weights = np.zeros(len(tokens), np.float32)
    weights[-learned:] = 1
    return Row(Source("bench", number + 1), [Sequence(tokens.astype(np.int32), weights)])


def prompted(count: int, share: float, length: int = ROW, seed: int = 0) -> list[Row]:
    """Rows of which a share is a common prompt; half of the rest is learned."""
    dice = np.random.default_rng(seed)
    common = dice.integers(0, 6_000, round(share * length))
    own = length - len(common)
    return [row(np.concatenate([common, dice.integers(0, 6_000, own)]), max(1, own // 2), i) for i in range(count)]


def nested(tokenizer: Tokenizer) -> list[Row]:
    """Real rows several levels deep: system prompt, five examples of a subject, question; and dialogues of which every answer is a row."""
    rows = []
    for examples in sorted((_bed.SHARED / "data/ev_mmlu/dev").glob("*.csv")):
        shots = "\n\n".join(_question(line) for line in _lines(examples))
        for line in _lines(_bed.SHARED / "data/ev_mmlu/test" / examples.name.replace("dev", "test"))[:40]:
            answer = len(tokenizer.encode(" " + line[f"choice{line['answer']}"]).ids)
            rows.append(row(np.array(tokenizer.encode(f"{SYSTEM}\n\n{shots}\n\n{_question(line)}").ids), answer))
    for dialogue in (_bed.SHARED / "bench/works/long.jsonl").read_text(encoding="utf-8").splitlines()[:10]:
        text = SYSTEM
        for message in json.loads(dialogue)["messages"]:
            text += f"\n\n{message['role']}: {message['content']}"
            if message["role"] == "assistant":
                rows.append(row(np.array(tokenizer.encode(text).ids), len(tokenizer.encode(message["content"]).ids)))
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


def _lines(file: Path) -> list[dict[str, str]]:
    with open(file, encoding="utf-8", newline="") as source:
        return list(csv.DictReader(source))


def _question(line: dict[str, str]) -> str:
    choices = "\n".join(f"- {line[f'choice{i}']}" for i in range(4))
    return f"{line['question']}\n{choices}\nAnswer: {line['choice' + line['answer']]}"


def works(tokenizer: Tokenizer) -> dict[str, list[Row]]:
    """The rivals' works as token rows (what is learned does not matter for counting), and the nested rows."""
    found: dict[str, list[Row]] = {}
    for work in ("instruct", "support", "long", "pairs"):
        found[work] = []
        for line in (_bed.SHARED / "bench/works" / f"{work}.jsonl").read_text(encoding="utf-8").splitlines():
            given = json.loads(line)
            ways = (
                [given["messages"]]
                if "messages" in given
                else [given["input"]["messages"] + given[k] for k in ("preferred_output", "non_preferred_output")]
            )
            texts = ["".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in way) for way in ways]
            paths = [row(np.array(tokenizer.encode(text).ids), 8).sequences[0] for text in texts]
            found[work].append(Row(Source(work, len(found[work]) + 1), paths))
    return found | {"nested": nested(tokenizer)}


def attention(pack: Pack) -> tuple[int, int]:
    """Scores computed by the pieces of a forest, and scores needed (a token sees its own path): both a head and layer."""
    computed = sum((piece.end - piece.start) * sum(end - start for start, end in piece.seen) for piece in pack.sight().pieces)
    return computed, int((pack.positions_T + 1).sum())


def count(budget: int, *, smoke: bool) -> list[dict[str, Any]]:
    """What packing does with real steps; `least` is the whole step as one forest."""
    if not _bed.SHARED.is_dir():
        sys.exit("skipped: no shared data; set LUTHIER_SHARED")
    tokenizer = Tokenizer.from_file(str(_bed.SHARED / "bench/works/tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in ("<|im_start|>", "<|im_end|>")])
    results = []
    for work, rows in works(tokenizer).items():
        for size in (8,) if smoke else (8, 32):
            steps = [rows[first : first + size] for first in range(0, len(rows) - size + 1, size)]
            start = time.perf_counter()
            found = [packs(step, budget) for step in steps]
            seconds = (time.perf_counter() - start) / len(steps)
            flat = [pack for step in found for pack in step]
            computed, needed = (sum(part) for part in zip(*map(attention, flat), strict=True))
            laid, true = sum(len(p.tokens_T) for p in flat), sum(len(s.tokens) for r in rows[: len(steps) * size] for s in r.sequences)
            least = sum(len(p.tokens_T) for step in steps for p in packs(step, 10**9))
            results.append(
                {
                    "work": work,
                    "rows_per_step": size,
                    "true": true / len(steps),
                    "laid": laid / len(steps),
                    "least": least / len(steps),
                    "forests": len(flat) / len(steps),
                    "pieces": sum(len(p.sight().pieces) for p in flat) / len(steps),
                    "attention_computed_of_needed": computed / needed,
                    "attention_computed_of_dense": computed / sum(len(p.tokens_T) ** 2 for p in flat),
                    "planning_ms": 1000 * seconds,
                }
            )
    return results


def context(*, smoke: bool) -> list[dict[str, Any]]:
    """Attention of rows that share nothing, in steps of at least 2,048 tokens."""
    results = []
    for length in (128, 512) if smoke else (128, 256, 512, 1024, 2048, 4096, 8192, 32768):
        flat = packs(prompted(max(1, 2048 // length), 0, length), max(1024, length))
        computed, needed = (sum(part) for part in zip(*map(attention, flat), strict=True))
        result = {"tokens_per_row": length, "needed_per_token": needed / sum(len(p.tokens_T) for p in flat)}
        results.append(
            result | {"computed_of_needed": computed / needed, "computed_of_dense": computed / sum(len(p.tokens_T) ** 2 for p in flat)}
        )
    return results


def over_rows(model: Model, repeat: int, *, smoke: bool) -> list[dict[str, Any]]:
    """Cost of a true token against rows per step and share of the prompt; counted for all, timed for some."""
    results = []
    for share in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        for size in (1, 2, 4, 8, 16, 32, 64):
            rows = prompted(size, share)
            laid = sum(len(p.tokens_T) for p in packs(rows, 1024))
            result = {"share": share, "rows_per_step": size, "laid_of_true": laid / (size * ROW)}
            if share in (0, 0.5, 0.9) and size <= (2 if smoke else 64):
                run = _bed.session(model, rows * (repeat + 1), rows_per_step=size)
                seconds = [run.advance().seconds for _ in range(repeat + 1)][1:]
                result["ms_per_true_token"] = 1000 * statistics.median(seconds) / (size * ROW)
            results.append(result)
    return results


def planning(model: Model, repeat: int, *, smoke: bool) -> list[dict[str, Any]]:
    """Planning beside the steps it is for. `alone`: the same steps, every plan ready before the clock starts; in turn."""
    results = []
    cases = {
        "32 rows of 128, half shared": prompted(32, 0.5),
        "32 rows of 512, 80% shared": prompted(32, 0.8, 512),
        "64 rows of 1,024": prompted(64, 0.0, 1024),
    }
    for name, rows in cases.items():
        start = time.perf_counter()
        for _ in range(5):
            planned(rows, 1024)
        result: dict[str, Any] = {"case": name, "planning_ms": 200 * (time.perf_counter() - start)}
        if len(rows) == 32 and not smoke:
            beside, alone = (_bed.session(model, rows * (1 + repeat), rows_per_step=32) for _ in range(2))
            ready = planned(rows, alone.budget)
            alone.ahead.take = lambda step, budget, ready=ready: ready  # type: ignore[method-assign, misc]
            first = beside.advance(), alone.advance(), beside.ahead.waited
            steps = [(beside.advance().seconds, alone.advance().seconds) for _ in range(repeat)]
            result["waited_ms_per_step"] = 1000 * (beside.ahead.waited - first[2]) / repeat
            result["step_ms"], result["step_alone_ms"] = (1000 * statistics.median(part) for part in zip(*steps, strict=True))
        results.append(result)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="count,context,rows,planning")
    parser.add_argument("--repeat", type=int, default=2, help="timed steps of each point")
    parser.add_argument("--save", type=Path, help="JSON of every point; parts measured before are kept")
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, nothing meant by the times")
    asked = parser.parse_args()
    keep_memory()
    parts, runs = asked.parts.split(","), []
    for part in parts:
        if part in ("count", "context"):
            found = count(1024, smoke=asked.smoke) if part == "count" else context(smoke=asked.smoke)
        else:
            model = _bed.base(smoke=asked.smoke)
            found = (over_rows if part == "rows" else planning)(model, asked.repeat, smoke=asked.smoke)
        for line in found:
            print(part, *(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in line.items()), sep="  ", flush=True)
            runs.append({"part": part, **line})
    if asked.save:
        old = json.loads(asked.save.read_text())["runs"] if asked.save.is_file() else []
        _bed.write(asked.save, {"method": "lora"}, [run for run in old if run["part"] not in parts] + runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
