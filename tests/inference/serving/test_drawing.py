"""Drawing a batch against drawing each row by the formulas, in float64."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from luthier.core.errors import ResultError
from luthier.inference.serving.ask import Asked
from luthier.inference.serving.drawing import Drawing, Drawn, draw

V = 50


def asked(**changes: Any) -> Asked:
    return Asked(model="m", prompt="x", **changes)


def scores(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * 3


def plain(raw: Any, ask: Asked, written: list[int], number: float) -> int:
    """One row, by the book."""
    x = np.asarray(raw, np.float64).copy()
    for token, bias in ask.logit_bias.items():
        x[token] += bias
    for token, count in Counter(written).items():
        x[token] -= count * ask.frequency_penalty + ask.presence_penalty
    if ask.temperature == 0:
        return int(x.argmax())
    p = np.exp((x - x.max()) / ask.temperature)
    p /= p.sum()
    order, inside, total = np.argsort(-p), np.zeros(V, bool), 0.0
    for token in order:
        inside[token] = True
        total += p[token]
        if total >= ask.top_p:
            break
    p = np.where(inside, p, 0)
    return int(np.searchsorted(np.cumsum(p), number * p.sum(), side="right"))


MIXED = [
    asked(temperature=0),
    asked(temperature=0.7, top_p=0.5, seed=4),
    asked(temperature=1.3, seed=5, presence_penalty=1.5, frequency_penalty=0.7),
    asked(temperature=0, logit_bias={7: 100.0, 8: -100.0}),
    asked(temperature=2.0, top_p=0.99, seed=6, logit_bias={3: 2.5}),
    asked(temperature=0, frequency_penalty=2.0, presence_penalty=2.0),
]


def test_a_mixed_batch_draws_what_each_row_would_alone() -> None:
    drawings = [Drawing(ask, 0, seed=ask.seed or 0) for ask in MIXED]
    written: list[list[int]] = [[] for _ in MIXED]
    for step in range(40):
        raw = scores(len(MIXED), step)
        numbers = [_peek(drawing) for drawing in drawings]
        found = draw(drawings, raw.clone())
        for row, drawn in enumerate(found):
            assert isinstance(drawn, Drawn)
            assert drawn.token == plain(raw[row], MIXED[row], written[row], numbers[row])
            drawings[row].take(drawn.token)
            written[row].append(drawn.token)


def _peek(drawing: Drawing) -> float:
    """The number it will draw with."""
    state = drawing.random.getstate()
    number = drawing.random.random()
    drawing.random.setstate(state)
    return number


def test_who_else_is_in_the_batch_changes_nothing() -> None:
    for count in (1, 3, 7):
        mine = Drawing(asked(temperature=1.0, seed=9), 0, seed=9)
        others = [Drawing(asked(temperature=1.0, seed=i), 0, seed=i) for i in range(count)]
        raw = torch.cat([scores(1, 99), scores(count, 5)])
        assert isinstance(first := draw([mine, *others], raw)[0], Drawn)
        assert first.token == draw([Drawing(asked(temperature=1.0, seed=9), 0, seed=9)], scores(1, 99))[0].token  # type: ignore[union-attr]


def test_seed_and_index_decide() -> None:
    def tokens(seed: int, index: int) -> list[int]:
        drawing = Drawing(asked(temperature=1.0), index, seed=seed)
        return [draw([drawing], scores(1, i))[0].token for i in range(12)]  # type: ignore[union-attr]

    assert tokens(1, 0) == tokens(1, 0)
    assert len({tuple(tokens(seed, index)) for seed in (1, 2, 11) for index in (0, 1)}) == 6


def test_shares_are_those_of_the_distribution() -> None:
    raw = scores(1, 3)
    drawing, p = Drawing(asked(temperature=1.0), 0, seed=0), torch.softmax(raw[0], -1)
    counts = Counter(draw([drawing], raw.clone())[0].token for _ in range(3000))  # type: ignore[union-attr]
    for token, count in counts.most_common(4):
        assert count / 3000 == pytest.approx(float(p[token]), abs=4 * float(p[token] * (1 - p[token]) / 3000) ** 0.5)


def test_log_probabilities_are_the_models_own() -> None:
    raw = scores(3, 1)
    given = [asked(temperature=0.5, logprobs=3, logit_bias={1: 90.0}), asked(temperature=0), asked(temperature=0, logprobs=0)]
    first, second, third = draw([Drawing(ask, 0, seed=0) for ask in given], raw.clone())
    logprobs = torch.log_softmax(raw, -1)
    assert isinstance(first, Drawn) and isinstance(second, Drawn) and isinstance(third, Drawn)
    assert first.token == 1 and first.logprob == pytest.approx(float(logprobs[0, 1]))
    top = logprobs[0].topk(3)
    assert [token for token, _ in first.top] == top.indices.tolist()
    assert [value for _, value in first.top] == pytest.approx(top.values.tolist())
    assert (second.logprob, second.top, third.top) == (None, (), ())
    assert third.logprob == pytest.approx(float(logprobs[2].max()))


class Nothing:
    """A grammar that allows no token."""

    def allowed(self) -> torch.Tensor:
        return torch.zeros(V, dtype=torch.bool)

    def take(self, token: int) -> bool:
        raise AssertionError


class Broken(Nothing):
    def allowed(self) -> torch.Tensor:
        raise ValueError("no mask")


def test_a_row_for_which_nothing_is_left_fails_alone() -> None:
    rows = [
        Drawing(asked(temperature=1.0), 0, seed=0, grammar=Nothing()),
        Drawing(asked(temperature=0), 0, seed=0),
        Drawing(asked(temperature=0), 0, seed=0, grammar=Broken()),
        Drawing(asked(temperature=1.0), 0, seed=0),
    ]
    raw = scores(4)
    raw[3, 0] = float("nan")
    empty, fine, broken, nan = draw(rows, raw)
    assert isinstance(empty, ResultError) and "No token is left" in str(empty)
    assert isinstance(fine, Drawn)
    assert isinstance(broken, ResultError) and "ValueError: no mask" in str(broken)
    assert isinstance(nan, ResultError)
