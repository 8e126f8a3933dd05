"""Rows that share beginnings, fork, repeat and carry weights; and the oracle."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence


def path(tokens: Any, weights: Any, part: str = "") -> Sequence:
    weights = np.asarray(weights, np.float32).copy()
    weights[0] = 0
    return Sequence(np.asarray(tokens, np.int32), weights, part)


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """`examples/tiny.py`, imported."""
    file = Path(__file__).parents[2] / "examples/tiny.py"
    spec = importlib.util.spec_from_file_location("tiny", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def bushy_rows() -> Callable[..., list[Row]]:
    """Random rows: half begin with one long prompt, some continue others, one repeats another, one forks into two paths."""

    def make(*, seed: int = 0, count: int = 10, vocabulary: int = 320) -> list[Row]:
        rng = np.random.default_rng(seed)
        prompt = rng.integers(0, vocabulary, 24)
        rows = []
        for i in range(count):
            tokens = np.concatenate([prompt if i % 2 else [], rng.integers(0, vocabulary, rng.integers(6, 40))])
            weights = (rng.random(len(tokens)) < 0.5) * rng.choice([0.25, 1.0], len(tokens))
            weights[-1] = 1.0
            rows.append(Row(Source("rows", i + 1), [path(tokens, weights)]))
        first = rows[1].sequences[0].tokens
        longer = np.concatenate([first, rng.integers(0, vocabulary, 9)])
        rows.append(Row(Source("rows", count + 1), [path(longer, np.r_[np.zeros(len(first)), np.ones(9)])]))
        rows.append(Row(Source("rows", count + 2), [path(first, np.ones(len(first)))]))
        forks = [path(np.concatenate([first[:30], rng.integers(0, vocabulary, n)]), np.r_[np.zeros(30), np.ones(n)]) for n in (5, 12)]
        rows.append(Row(Source("rows", count + 3), forks))
        return rows

    return make
