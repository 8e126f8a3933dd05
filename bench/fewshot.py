#!/usr/bin/env python3
"""Eight-shot multiple choice: Luthier's tree beside the plain way, in which every item and choice is a row of its own.

    python bench/fewshot.py --model MODEL [--items 200] [--answers text,letter] [--part 1] [--save bench/results/fewshot.json]

Items: MMLU's marketing test; eight questions, answered, stand before each of the others. `text` scores the four answers as written,
`letter` their letters, with the answers listed in the question. The plain way is what evaluation harnesses do: rows sorted by length,
batches padded on the right, a log-softmax over all tokens and the sum over the continuation; letters are one token, so the four share a
row. Its batch size is the fastest of those tried on rows of every length. `--part 8` gives the plain way every eighth batch only and
multiplies its time by the share of tokens, for models that would take too long; the share is in the results.
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
import torch
import transformers
from transformers import AutoModelForCausalLM

from luthier.engine.arena import keep_memory
from luthier.evaluation.choices import Question, choose_all
from luthier.models.find import find
from luthier.models.load import load

transformers.logging.set_verbosity_error()
SHOTS = 8
BATCHES = (4, 8, 16, 32)
PlainRow = tuple[list[int], list[tuple[int, int]], list[list[int]]]
"""Tokens; item and choice of what is read from them; and those continuations."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="luthier-mini", help="folder or name")
    parser.add_argument("--smoke", action="store_true", help="once, a few items")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--answers", default="text,letter")
    parser.add_argument("--dtype", default="bfloat16,float32")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--part", type=int, default=1)
    parser.add_argument("--batch", type=int, default=0, help="rows of a plain batch; left out, the fastest is looked for")
    parser.add_argument("--save", type=Path, help="JSON file; results are appended")
    asked = parser.parse_args()
    if not (_bed.SHARED / "data" / "ev_mmlu").is_dir():
        sys.exit("skipped: shared/data/ev_mmlu is not here")
    if asked.smoke:
        asked.items, asked.repeat, asked.batch, asked.dtype = 4, 1, 8, "float32"
    keep_memory()
    for dtype in asked.dtype.split(","):
        for answers in asked.answers.split(","):
            result = measure(asked, dtype, answers)
            print(json.dumps(result, indent=1))
            if asked.save:
                _bed.append(asked.save, result)


def measure(asked: argparse.Namespace, dtype: str, answers: str) -> dict[str, Any]:
    ours = load(asked.model, dtype=dtype)
    theirs = AutoModelForCausalLM.from_pretrained(find(asked.model), dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()
    questions = items(ours.renderer.encode, asked.items, answers, ours.context)
    rows = plain_rows(questions)
    few = rows[:: max(1, len(rows) // 64)]  # of every length
    tried = {size: plain(theirs, few, size)[0] for size in ([asked.batch] if asked.batch else BATCHES)}
    size = min(tried, key=lambda size: tried[size])
    choose_all(ours, questions[:8])
    seconds: dict[str, list[float]] = {"plain": [], "luthier": []}
    for _ in range(asked.repeat):
        took, scores = plain(theirs, rows, size, asked.part)
        seconds["plain"].append(took)
        start = time.perf_counter()
        chosen = choose_all(ours, questions)
        seconds["luthier"].append(time.perf_counter() - start)
    found = [choice.scores for choice in chosen]
    whole = [number for number in range(len(questions)) if all((number, choice) in scores for choice in range(4))]
    best = [max(range(4), key=lambda choice: scores[number, choice]) for number in whole]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "model": Path(asked.model).name,
        "dtype": dtype,
        "answers": answers,
        "items": len(questions),
        "shots": SHOTS,
        "tokens_a_row": [min(len(tokens) for tokens, _, _ in rows), max(len(tokens) for tokens, _, _ in rows)],
        "plain_rows": len(rows),
        "plain_tokens": sum(len(tokens) for tokens, _, _ in rows),
        "plain_part": f"1/{asked.part}",
        "batch_sizes_tried": {str(key): round(value, 2) for key, value in tried.items()},
        "batch_size": size,
        "seconds": seconds,
        "median": {name: round(value, 3) for name, value in medians.items()},
        "ratio": round(medians["plain"] / medians["luthier"], 2),
        "compared_scores": len(scores),
        "largest_difference": max(abs(score - found[number][choice]) for (number, choice), score in scores.items()),
        "compared_items": len(whole),
        "same_choice": sum(chosen[number].index == choice for number, choice in zip(whole, best, strict=True)),
        "threads": torch.get_num_threads(),
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__, "transformers": transformers.__version__},
    }


def items(encode: Any, count: int, answers: str, context: int) -> list[Question]:
    """Questions behind eight answered ones, as many as fit the model."""
    text = (_bed.SHARED / "data" / "ev_mmlu" / "test" / "marketing_test.csv").open(encoding="utf-8")
    read = sorted(list(csv.reader(text))[1:], key=lambda row: len("".join(row)))  # small models read few tokens: the short ones
    shots, asked = read[:SHOTS], read[SHOTS : SHOTS + count]
    head = "".join(f"{ask(row, answers)} {said(row, int(row[5]), answers)}\n\n" for row in shots)
    questions = [
        Question(encode(head + ask(row, answers)), [encode(f" {said(row, number, answers)}") for number in range(4)]) for row in asked
    ]
    return [q for q in questions if len(q.prompt) + max(map(len, q.choices)) <= context]


def ask(row: list[str], answers: str) -> str:
    listed = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", row[1:5], strict=True)) if answers == "letter" else ""
    return f"Question: {row[0].strip()}{listed}\nAnswer:"


def said(row: list[str], number: int, answers: str) -> str:
    return "ABCD"[number] if answers == "letter" else row[1 + number]


def plain_rows(questions: list[Question]) -> list[PlainRow]:
    """Rows of the plain way, longest first."""
    rows: list[PlainRow] = []
    for number, question in enumerate(questions):
        if all(len(choice) == 1 for choice in question.choices):
            rows.append((question.prompt, [(number, index) for index in range(4)], question.choices))
        else:
            rows += [(question.prompt + choice[:-1], [(number, index)], [choice]) for index, choice in enumerate(question.choices)]
    return sorted(rows, key=lambda row: (-len(row[0]), row[1]))


@torch.no_grad()
def plain(network: Any, rows: list[PlainRow], size: int, part: int = 1) -> tuple[float, dict[tuple[int, int], float]]:
    """Seconds for all rows (those of every part-th batch, times the share of the tokens they hold), and scores by item and choice."""
    batches = [rows[first : first + size] for first in range(0, len(rows), size)][::part]
    scores: dict[tuple[int, int], float] = {}
    start = time.perf_counter()
    for batch in batches:
        longest = len(batch[0][0])
        ids = torch.tensor([tokens + [0] * (longest - len(tokens)) for tokens, _, _ in batch])
        logprobs = torch.log_softmax(network(ids).logits, dim=-1, dtype=torch.float32)
        for row, (tokens, names, choices) in enumerate(batch):
            for name, choice in zip(names, choices, strict=True):
                places = torch.arange(len(tokens) - len(choice), len(tokens))
                scores[name] = float(logprobs[row, places, torch.tensor(choice)].sum())
    share = sum(len(tokens) for tokens, _, _ in rows) / sum(len(tokens) for batch in batches for tokens, _, _ in batch)
    return (time.perf_counter() - start) * share, scores


if __name__ == "__main__":
    main()
