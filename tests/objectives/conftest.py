"""Pairs that share beginnings, and what transformers alone says of them: the naive side of every comparison."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence
from luthier.data.said import Answer

LABELS = {"parcel": "Where is my parcel?", "refund": "I want my money back.", "broken": "It arrived broken.", "hours": "When do you open?"}


class Known:
    """Answers by the number of the row, in the place of those of a file."""

    def __init__(self, said: list[str], words: list[list[str]]) -> None:
        self.said, self.words = said, words

    def of(self, source: Source) -> Answer:
        place = source.row - 1
        return Answer(self.said[place], tuple(self.words[place]))


WORDLESS = Known([""] * 100, [[]] * 100)
"""Rows without a tag for every word: their answers are read off the tokens."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and caches of a test go to its own folder."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))


def path(prompt: Any, answer: Any, part: str) -> Sequence:
    weights = np.r_[np.zeros(len(prompt)), np.ones(len(answer))].astype(np.float32)
    return Sequence(np.concatenate([prompt, answer]).astype(np.int32), weights, part)


@pytest.fixture(scope="session")
def pair_rows() -> Callable[..., list[Row]]:
    """Random pairs: some share a prompt, one's answers begin alike, one has several paths a side."""

    def make(*, count: int = 6, seed: int = 0, vocabulary: int = 320) -> list[Row]:
        rng = np.random.default_rng(seed)
        shared = rng.integers(0, vocabulary, 20)
        rows = []
        for i in range(count):
            prompt = np.concatenate([shared if i % 2 else [], rng.integers(0, vocabulary, rng.integers(4, 20))])
            alike = rng.integers(0, vocabulary, 12 if i == 1 else 0)
            sides = [np.concatenate([alike, rng.integers(0, vocabulary, rng.integers(3, 18))]) for _ in range(2)]
            rows.append(Row(Source("pairs", i + 1), [path(prompt, a, p) for a, p in zip(sides, ("chosen", "rejected"), strict=True)]))
        again = path(np.concatenate([shared, [7]]), rng.integers(0, vocabulary, 5), "chosen")
        rows.append(Row(Source("pairs", count + 1), [*rows[1].sequences, again]))
        return rows

    return make


@pytest.fixture(scope="session")
def twin() -> Callable[[Any], torch.nn.Module]:
    """The network of a model with transformers' own eager attention and the same weights."""

    def make(model: Any) -> torch.nn.Module:
        config = copy.deepcopy(model.network.config)
        found = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        found.load_state_dict(model.network.state_dict())
        return found

    return make


def naive_logprobs(network: torch.nn.Module, sequence: Sequence) -> Tensor:
    """Log-probability of each learned token of one path, alone, from all logits."""
    tokens = torch.from_numpy(sequence.tokens).long()
    logprobs_TV = network(input_ids=tokens[None], use_cache=False).logits[0].float().log_softmax(-1)
    learned = torch.from_numpy(np.flatnonzero(sequence.weights))
    return logprobs_TV[learned - 1].gather(1, tokens[learned, None]).squeeze(1)


def side(network: torch.nn.Module, row: Row, part: str) -> Tensor:
    """Log-probability of one answer of a pair."""
    return torch.stack([naive_logprobs(network, s).sum() for s in row.sequences if s.part == part]).sum()


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files the pages speak of, in the present folder."""
    monkeypatch.chdir(tmp_path)
    dice = random.Random(0)
    chats, pairs, judged, texts = [], [], [], []
    for i in range(40):
        label, words = dice.choice(list(LABELS.items()))
        asked = f"{words} Order {dice.randint(1000, 9999)}, {i}."
        chats.append({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": label}]})
        pairs.append(
            {"prompt": asked, "chosen": f"That is about {label}.", "rejected": dice.choice(["No.", "Who knows?", "Ask another day."])}
        )
        judged.append({"prompt": asked, "completion": pairs[-1][("chosen", "rejected")[i % 2]], "label": i % 2 == 0})
        texts.append(f"Once there was a {label} with number {i}. It said: {words}")
    (tmp_path / "tickets.jsonl").write_text("\n".join(map(json.dumps, chats)))
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (tmp_path / "judged.jsonl").write_text("\n".join(map(json.dumps, judged)))
    together = [{"anchor": row["prompt"], "positive": f"About {i}: {row['chosen']}"} for i, row in enumerate(pairs)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, together)))
    (tmp_path / "stories.txt").write_text("\n\n".join(texts))
    return tmp_path
