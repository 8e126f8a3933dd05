#!/usr/bin/env python3
"""Greedy generation of rows that share a prompt: Luthier beside `transformers generate`, token by token.

    python bench/generate.py --model MODEL [--dtype bfloat16,float32] [--repeat 3] [--save bench/results/generate.json]

Rows: a task with worked examples from banking77 (the first `--shared-tokens` tokens, alike in all rows), then a question of its own each.
All rows write `--new` tokens; nothing ends them earlier. transformers gets one left-padded batch and every combination of its attentions
and caches is tried once; the fastest is then measured in turn with ours, A B A B. `by hand` is the recipe of transformers' manual: the
shared tokens are read once, their cache is repeated for all rows, and `generate` continues it.

Identity is asked of the tokens. Where a row differs, the gap says by how many nats the two tokens differ to plain transformers in fp32, one
row at a time, after the same beginning: bf16 rounds a score of 10 to 0.06, so two correct programs part at gaps of that size.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _bed
import torch
import transformers
from transformers import AutoModelForCausalLM, DynamicCache

from luthier.engine.arena import keep_memory
from luthier.inference.generate import generate
from luthier.models.find import find
from luthier.models.load import load

transformers.logging.set_verbosity_error()
CHOICES = [(attention, cache) for attention in ("sdpa", "eager") for cache in ("dynamic", "static")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="luthier-mini", help="folder or name")
    parser.add_argument("--smoke", action="store_true", help="once, few tokens")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--shared-tokens", type=int, default=400)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16,float32")
    parser.add_argument("--rival", default="", help="attention+cache, e.g. sdpa+dynamic; left out, all are tried")
    parser.add_argument("--save", type=Path, help="JSON file; results are appended")
    asked = parser.parse_args()
    if not (_bed.SHARED / "data" / "ft_banking77").is_dir():
        sys.exit("skipped: shared/data/ft_banking77 is not here")
    if asked.smoke:
        asked.rows, asked.new, asked.repeat, asked.dtype, asked.rival = 3, 4, 1, "float32", "sdpa+dynamic"
    keep_memory()
    for dtype in asked.dtype.split(","):
        result = measure(asked, dtype)
        print(json.dumps({k: v for k, v in result.items() if k != "seconds"}, indent=1))
        if asked.save:
            _bed.append(asked.save, result)


def measure(asked: argparse.Namespace, dtype: str) -> dict[str, Any]:
    ours = load(asked.model, dtype=dtype)
    rows = prompts(ours.renderer.encode, asked.rows, min(asked.shared_tokens, ours.context - asked.new - 64))
    theirs = AutoModelForCausalLM.from_pretrained(find(asked.model), dtype=getattr(torch, dtype)).eval()
    tried = {f"{a}+{c}": clocked(plain(theirs, rows, asked.new, a, c))[0] for a, c in CHOICES} if not asked.rival else {asked.rival: 0.0}
    best = min(tried, key=lambda name: tried[name])
    attention, cache = best.split("+")
    contenders = {
        "transformers": plain(theirs, rows, asked.new, attention, cache),
        "by hand": by_hand(theirs, rows, asked.new),
        "luthier": lambda: [g.tokens for g in generate(ours, rows, max_tokens=asked.new)],
    }
    said = {name: run() for name, run in contenders.items()}  # also warms up
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(asked.repeat):
        for name, run in contenders.items():
            seconds[name].append(clocked(run)[0])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    judge = theirs.float() if dtype != "float32" else theirs
    return {
        "model": Path(asked.model).name,
        "dtype": dtype,
        "rows": asked.rows,
        "prompt_tokens": sorted(map(len, rows)),
        "shared_tokens": common(rows),
        "new": asked.new,
        "tried": {name: round(value, 3) for name, value in tried.items()},
        "best_rival": best,
        "seconds": seconds,
        "median": {name: round(value, 3) for name, value in medians.items()},
        "ratio": round(medians["transformers"] / medians["luthier"], 2),
        "ratio_by_hand": round(medians["by hand"] / medians["luthier"], 2),
        "differing": {name: differing(judge, rows, said["transformers"], said[name]) for name in ("luthier", "by hand")},
        "threads": torch.get_num_threads(),
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__},
    }


def prompts(encode: Callable[[str], list[int]], rows: int, common_tokens: int) -> list[list[int]]:
    """`common_tokens` tokens of worked examples, then one question each."""
    folder = _bed.SHARED / "data" / "ft_banking77"
    read = {part: list(csv.reader((folder / f"{part}.csv").open(encoding="utf-8")))[1:] for part in ("train", "test")}
    head = "Say what the customer of a bank asks about.\n\n" + "".join(f"Customer: {q}\nTopic: {t}\n\n" for q, t in read["train"][::997])
    few = read["train"][5::67]
    head += "".join(f"Customer: {q}\nTopic: {t}\n\n" for q, t in few[:60])
    short = [q for q, _ in read["test"][::91] if len(q) < 60][:rows]
    assert len(short) == rows
    return [encode(head)[:common_tokens] + encode(f"\n\nCustomer: {q}\nTopic:") for q in short]


def plain(network: Any, rows: list[list[int]], new: int, attention: str, cache: str) -> Callable[[], list[list[int]]]:
    """One left-padded batch through ``generate``."""
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    settings: dict[str, Any] = {"cache_implementation": "static"} if cache == "static" else {}

    def run() -> list[list[int]]:
        network.set_attn_implementation(attention)
        return written(network, ids, mask, new, settings)

    return run


def by_hand(network: Any, rows: list[list[int]], new: int) -> Callable[[], list[list[int]]]:
    """The shared tokens read once; their cache, copied for all rows, continued by ``generate``."""
    head = common(rows)
    longest = max(map(len, rows))
    pads = [longest - len(row) for row in rows]
    # padding stands behind the shared tokens, so that the cache fits all rows; the mask hides it
    ids = torch.tensor([row[:head] + [0] * pad + row[head:] for row, pad in zip(rows, pads, strict=True)])
    mask = torch.tensor([[1] * head + [0] * pad + [1] * (len(row) - head) for row, pad in zip(rows, pads, strict=True)])

    @torch.no_grad()
    def run() -> list[list[int]]:
        cache = DynamicCache(config=network.config)
        network(torch.tensor([rows[0][:head]]), past_key_values=cache)
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(rows))
        return written(network, ids, mask, new, {"past_key_values": cache})

    return run


def written(network: Any, ids: torch.Tensor, mask: torch.Tensor, new: int, settings: dict[str, Any]) -> list[list[int]]:
    out = network.generate(
        ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0, **settings
    )
    tokens: list[list[int]] = out[:, ids.shape[1] :].tolist()
    return tokens


def clocked(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = run()
    return time.perf_counter() - start, value


def common(rows: list[list[int]]) -> int:
    """Tokens all rows begin with."""
    return next(i for i, tokens in enumerate(zip(*rows, strict=False)) if len(set(tokens)) > 1)


@torch.no_grad()
def differing(judge: Any, rows: list[list[int]], left: list[list[int]], right: list[list[int]]) -> dict[str, Any]:
    """Rows that differ, and for each the gap in nats between the two tokens at the first difference."""
    gaps = []
    for row, a, b in zip(rows, left, right, strict=True):
        if a != b:
            place = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
            scores = judge(torch.tensor([row + a[:place]])).logits[0, -1].float()
            gaps.append(round(abs(float(scores[a[place]] - scores[b[place]])), 4))
    return {"rows": len(gaps), "gaps": sorted(gaps)}


if __name__ == "__main__":
    main()
