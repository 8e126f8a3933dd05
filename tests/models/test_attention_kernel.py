"""Attention of all pieces in one call: the numbers of dense attention under the rule, forward and backward, and always the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from luthier.models import kernels, pieces
from luthier.models.kernels.compiled import Compiled, library
from luthier.models.sight import PIECE, Sight

FORESTS = {
    "one row of one token": (0, [1]),
    "rows by themselves": (0, [17, 1, 33, 5, 64]),
    "a row of several pieces": (0, [PIECE + 45, 3]),
    "a common beginning": (21, [7, 40, 1, 16]),
    "a long common beginning": (PIECE + 9, [30, PIECE + 2]),
}
SHAPES = {"grouped": (6, 2, 64), "each its own": (4, 4, 32), "all alike": (5, 1, 16), "wide": (2, 1, 128)}


def sight(shared: int, lengths: list[int]) -> Sight:
    """Rows behind one common beginning."""
    total = shared + sum(lengths)
    ends = [np.full(shared, total), *(np.full(n, end) for n, end in zip(lengths, shared + np.cumsum(lengths), strict=True))]
    return Sight(np.concatenate(ends), np.concatenate([np.arange(shared), *(np.arange(shared, shared + n) for n in lengths)]))


def draw(sight: Sight, heads: int, kv: int, width: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """Queries, keys, values and the output's gradient: ``[T, H, W]`` and ``[K, T, W]``."""
    source, tokens = torch.Generator().manual_seed(7), len(sight.ends_T)
    shapes = (tokens, heads, width), (kv, tokens, width), (kv, tokens, width), (tokens, heads, width)
    q, k, v, g = (torch.randn(*shape, generator=source) for shape in shapes)
    return [x.to(dtype) for x in (q * width**-0.5 * 2, k, v, g)]


def by_pieces(x_THW: Tensor, sight: Sight) -> Tensor:
    parts = [x_THW[piece.start : piece.end].transpose(0, 1).reshape(-1) for piece in sight.pieces]
    return torch.cat(parts).view(x_THW.shape)


def computed(sight: Sight, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> list[Tensor]:
    """Output, and the gradients of q, k and v; what belongs to queries piece by piece."""
    laid, g, logsum = by_pieces(q, sight), by_pieces(g, sight), torch.empty(q.shape[0] * q.shape[1])
    out = pieces.forward(laid, k, v, sight, logsum)
    delta = (g.float() * out.float()).sum(-1).flatten()
    return [out, *pieces.backward(g, delta, laid, k, v, logsum, sight)]


def dense(sight: Sight, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> list[Tensor]:
    """The same in float32, by autograd, with the rule as a matrix."""
    q, k, v = (x.float().requires_grad_() for x in (q, k, v))
    group = q.shape[1] // k.shape[0]
    scores = torch.einsum("thw,hsw->hts", q, k.repeat_interleave(group, 0))
    p = scores.masked_fill(~sight.dense(), float("-inf")).softmax(-1)
    out = torch.einsum("hts,hsw->thw", p, v.repeat_interleave(group, 0))
    grads = torch.autograd.grad(out, (q, k, v), g.float())
    return [by_pieces(out.detach(), sight), by_pieces(grads[0], sight), *grads[1:]]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Compiled:
    found = library()
    if found is None or not torch.cpu.get_capabilities().get("avx512_bf16"):
        pytest.skip("no C++ compiler, or a processor without products of bf16 pairs")
    made = Compiled(found)
    monkeypatch.setattr(kernels, "_here", lambda: made)
    return made


def took(run: Compiled, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call was served."""
    seen: list[bool] = []
    for name in ("attend", "attend_back"):
        plain = getattr(run, name)

        def noted(*given: Any, _plain: Any = plain) -> bool:
            seen.append(_plain(*given))
            return seen[-1]

        monkeypatch.setattr(run, name, noted)
    return seen


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("forest", FORESTS)
def test_numbers_of_dense_attention(compiled: Compiled, monkeypatch: pytest.MonkeyPatch, forest: str, shape: str) -> None:
    plan, seen = sight(*FORESTS[forest]), took(compiled, monkeypatch)
    given = draw(plan, *SHAPES[shape])
    for name, found, wanted in zip(("out", "dq", "dk", "dv"), computed(plan, *given), dense(plan, *given), strict=True):
        assert (found.float() - wanted).norm() <= 1e-2 * wanted.norm() + 1e-4, name  # of one token alone they are nothing
    assert seen == [True, True]


def test_the_same_numbers_every_time(compiled: Compiled) -> None:
    plan = sight(*FORESTS["a long common beginning"])
    given = draw(plan, *SHAPES["grouped"])
    first, threads = computed(plan, *given), torch.get_num_threads()
    assert all(torch.equal(a, b) for a, b in zip(first, computed(plan, *given), strict=True))
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            found = [computed(plan, *given) for _ in range(3)]
            for again in found[1:]:
                assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))
            assert torch.equal(found[0][0], first[0])
            assert all((a.float() - b.float()).norm() <= 3e-3 * b.float().norm() for a, b in zip(found[0], first, strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("width", "dtype"), [(8, torch.bfloat16), (64, torch.float32)])
def test_what_it_does_not_serve_is_computed_piece_by_piece(
    compiled: Compiled, monkeypatch: pytest.MonkeyPatch, width: int, dtype: torch.dtype
) -> None:
    plan, seen = sight(*FORESTS["a common beginning"]), took(compiled, monkeypatch)
    given = draw(plan, 6, 2, width, dtype)
    for found, wanted in zip(computed(plan, *given), dense(plan, *given), strict=True):
        assert (found.float() - wanted).norm() <= 1e-2 * wanted.norm()
    assert seen == [False, False]
