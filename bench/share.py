#!/usr/bin/env python3
"""Which share of the machine's matmul limit a step of tuning reaches, the limit measured between steps; and where its time goes.

    python bench/share.py --save bench/results/share.json

Eight rows of the harness's `instruct` a step (nothing shared), LoRA rank 16, 135 M Llama of random weights. The limit is what
``peak.py`` of the harness measures: the rate of a block's bf16 matmuls at 1,024 tokens, each shape alone for some time. It is
measured before each step and after the last; a step's share is that of the mean of its two neighbours, so that a slow phase of the
machine hits both. What a step needs is counted as in ``versus.py``: 4 FLOP a frozen weight and true token, the head for learned
tokens; adapters, attention and all else count nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

import _bed
import torch
from torch.profiler import ProfilerActivity, profile
from versus import JOBS

from luthier.engine.arena import keep_memory
from luthier.engine.session import Session

ROWS, RANK, TOKENS = 8, 16, 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--smoke", action="store_true", help="smallest sizes, nothing meant by the times")
    asked = parser.parse_args()
    steps = 2 if asked.smoke else asked.steps
    keep_memory()
    small = _bed.SMOKE["vocab_size"] if asked.smoke else _bed.SHAPE["vocab_size"]
    known = _bed.work("instruct", ROWS * 16, vocabulary=small)
    rows = list(islice(cycle(known), ROWS * (steps + 4)))
    session = _bed.session(_bed.base(smoke=asked.smoke), rows, rows_per_step=ROWS)
    session.advance()
    runs = measure(session, steps, seconds=0.01 if asked.smoke else 0.3)
    shares = [run["share"] for run in runs]
    low, middle, high = statistics.quantiles(shares, n=4)
    print(f"share of the limit: median {middle:.1%} of {len(runs)} steps, half of them {low:.1%} to {high:.1%}")
    kinds = spent(session, 1 if asked.smoke else 3)
    for name, share in kinds.items():
        print(f"{share:6.1%}  {name}")
    if asked.save:
        _bed.write(asked.save, {"model": "135 M Llama, random weights", "method": "lora rank 16", "time": kinds}, runs)
    return 0


def measure(session: Session, steps: int, *, seconds: float) -> list[dict[str, Any]]:
    """Steps, and the limit around each of them."""
    shape = json.loads((_bed.SHARED / "bench" / "works" / "model.json").read_text())
    limits, stepped = [limit(seconds)], []
    for _ in range(steps):
        stepped.append(session.advance())
        limits.append(limit(seconds))
    runs = []
    for step, around in zip(stepped, pairwise(limits), strict=True):
        needed = JOBS["instruct"].flop_per_token(shape, step.learned_tokens / step.tokens) * step.tokens
        rate = needed / step.seconds / 1e9
        share = rate / statistics.mean(around)
        runs.append(
            {"tokens": step.tokens, "seconds": round(step.seconds, 4), "limits": [round(x) for x in around], "share": round(share, 4)}
        )
    return runs


def limit(seconds: float) -> float:
    """GFLOP a second of a block's bf16 matmuls at 1,024 tokens, each shape for so many seconds, its median call: ``peak.py``'s."""
    width, inner = _bed.SHAPE["hidden_size"], _bed.SHAPE["intermediate_size"]
    narrow = _bed.SHAPE["head_dim"] * _bed.SHAPE["num_key_value_heads"]
    shapes = {(width, width): 2, (width, narrow): 2, (width, inner): 2, (inner, width): 1}
    total = sum(count * calls(*shape, seconds) for shape, count in shapes.items())
    return 2 * TOKENS * sum(count * wide * out for (wide, out), count in shapes.items()) / total / 1e9


@torch.inference_mode()
def calls(wide: int, out: int, seconds: float) -> float:
    """Seconds of one product, the median of many."""
    x, w = torch.randn(TOKENS, wide).bfloat16(), torch.randn(out, wide).bfloat16()
    times, until = list[float](), time.perf_counter() + seconds
    while time.perf_counter() < until or len(times) < 5:
        start = time.perf_counter()
        torch.nn.functional.linear(x, w)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def spent(session: Session, steps: int) -> dict[str, float]:
    """Shares of the time of some steps, by kind of work."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        start = time.perf_counter()
        for _ in range(steps):
            session.advance()
        whole = time.perf_counter() - start
    vocabulary = session.model.vocabulary
    kinds = dict.fromkeys(("frozen weights", "head", "adapters", "attention's products"), 0.0)
    for event in seen.events():
        if event.name in ("aten::mm", "aten::addmm_", "aten::addmm"):
            sizes = {size for shape in event.input_shapes for size in shape}
            thin = min(sizes - {1}, default=1) <= 3 * RANK
            kinds["head" if vocabulary in sizes else "adapters" if thin else "frozen weights"] += event.self_cpu_time_total / 1e6
        elif event.name in ("aten::bmm", "aten::baddbmm"):
            kinds["attention's products"] += event.self_cpu_time_total / 1e6
    found = {name: round(seconds / whole, 4) for name, seconds in kinds.items()}
    return found | {"all else": round(1 - sum(found.values()), 4)}


if __name__ == "__main__":
    sys.exit(main())
