"""How many tokens a forest holds where nobody said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from luthier.core.example import Source
from luthier.core.sequence import Row, Sequence
from luthier.core.spec import TrainSpec
from luthier.engine.budget import TOKENS_ON_ACCELERATOR, TOKENS_PER_PACK, TOKENS_PER_SHARED_PACK, usual
from luthier.engine.order import Order

CPU = torch.device("cpu")


def rows(count: int, *, common: int, own: int) -> list[Row]:
    """Rows that begin with the same `common` tokens and go on with `own` ones."""
    dice = np.random.default_rng(0)
    prompt = dice.integers(0, 300, common)
    tokens = [np.concatenate([prompt, dice.integers(0, 300, own)]).astype(np.int32) for _ in range(count)]
    return [Row(Source("rows", i + 1), [Sequence(each, np.ones(len(each), np.float32))]) for i, each in enumerate(tokens)]


@pytest.mark.parametrize(
    ("common", "own", "per_step", "budget"),
    [
        (600, 60, 16, TOKENS_PER_SHARED_PACK),  # one forest instead of two, which both repeat the prompt
        (217, 42, 32, TOKENS_PER_PACK),  # the same, but that saves a sixth only
        (0, 48, 32, TOKENS_PER_PACK),  # one forest instead of two, nothing shared: only what a forest costs by itself
        (217, 42, 8, TOKENS_PER_PACK),  # one forest either way
        (20, 100, 64, TOKENS_PER_PACK),  # many forests, a short prompt
    ],
)
def test_forests_are_larger_where_that_saves_much(common: int, own: int, per_step: int, budget: int) -> None:
    given = rows(3 * per_step, common=common, own=own)
    order = Order(given, TrainSpec(epochs=1, rows_per_step=per_step, learning_rate=1e-3))
    assert usual(given, order, CPU) == budget


def test_an_accelerator_has_its_own_size_whatever_the_rows() -> None:
    given = rows(32, common=217, own=42)
    order = Order(given, TrainSpec(epochs=1, rows_per_step=32, learning_rate=1e-3))
    assert usual(given, order, torch.device("meta")) == TOKENS_ON_ACCELERATOR
