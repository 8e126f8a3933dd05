#!/usr/bin/env python3
"""How long a turn of a conversation takes until its first word, when what was read is kept and when it is read again.

    python bench/chat.py --model MODEL [--turns 10] [--save bench/results/chat.json]

The questions are customers' of banking77, with a system prompt; answers have `--new` tokens. Both ways hold the same conversation, turn
by turn beside each other. Laid-out weights are kept in both, so that only the reading differs.
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

from luthier.engine.arena import keep_memory
from luthier.inference.chat import Conversation, Settings
from luthier.inference.keeper import Keeper
from luthier.inference.sides import Sides
from luthier.models.load import load

SYSTEM = "You answer customers of a bank. Be brief, be polite, and never ask for a card number or a password. " * 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="luthier-mini", help="folder or name")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--smoke", action="store_true", help="two short turns")
    parser.add_argument("--save", type=Path, help="JSON file; results are appended")
    asked = parser.parse_args()
    if not (_bed.SHARED / "data" / "ft_banking77").is_dir():
        sys.exit("skipped: shared/data/ft_banking77 is not here")
    if asked.smoke:
        asked.turns, asked.new = 2, 4
    keep_memory()
    result = measure(asked)
    print(json.dumps(result, indent=1))
    if asked.save:
        _bed.append(asked.save, result)


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    model = load(asked.model)
    rows = list(csv.reader((_bed.SHARED / "data" / "ft_banking77" / "test.csv").open(encoding="utf-8")))[1:]
    ways = {"kept": Keeper(), "read again": Keeper(most_bytes=0)}
    settings = Settings(max_tokens=asked.new)
    talks = {name: Conversation(Sides(model), settings, SYSTEM, keeper=keeper) for name, keeper in ways.items()}
    for keeper in ways.values():
        list(Conversation(Sides(model), settings, "Warm up.", keeper=keeper).ask("Hello?"))
    turns: list[dict[str, Any]] = []
    for question, _ in rows[:: len(rows) // asked.turns][: asked.turns]:
        turn: dict[str, Any] = {}
        for name, talk in talks.items():
            turn["history_tokens"] = len(model.renderer.prompt(talk.turns)) if talk.turns else 0
            start = time.perf_counter()
            pieces = talk.ask(question)
            next(pieces, "")
            turn[name] = round(time.perf_counter() - start, 4)
            list(pieces)
        turns.append(turn)
    said = {name: [message.content for message in talk.turns] for name, talk in talks.items()}
    later = turns[len(turns) // 2 :]
    return {
        "model": Path(asked.model).name,
        "dtype": str(model.dtype)[6:],
        "turns": turns,
        "median_of_the_later_half": {name: statistics.median(turn[name] for turn in later) for name in ways},
        "same_words": said["kept"] == said["read again"],
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    main()
