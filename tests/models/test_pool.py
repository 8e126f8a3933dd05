"""Keys and values at any places: attention over them is attention over rows laid out plainly."""

from typing import Any

import numpy as np
import pytest
import torch

from luthier.models.pool import Paged, Pool, Stretch, token_bytes

H, K, D = 6, 2, 8


@pytest.fixture(autouse=True)
def _no_graph() -> Any:
    with torch.inference_mode():
        yield


def pool(size: int = 200) -> Pool:
    return Pool(size, layers=2, heads=K, width=D, dtype=torch.float32, device=torch.device("cpu"))


def plain(q_HD: Any, k_SKD: Any, v_SKD: Any, softcap: float | None, window: int | None) -> Any:
    """One query over all keys, head by head."""
    k_HSD, v_HSD = (x.transpose(0, 1).repeat_interleave(H // K, 0) for x in (k_SKD, v_SKD))
    scores = (k_HSD @ (q_HD * 0.5)[:, :, None]).squeeze(2)
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    if window:
        scores[:, : max(0, scores.shape[1] - window)] = float("-inf")
    return (scores.softmax(-1)[:, None] @ v_HSD).squeeze(1)


@pytest.mark.parametrize(("softcap", "window"), [(None, None), (2.0, None), (None, 5)])
def test_rows_see_their_own_places_and_nothing_else(softcap: float | None, window: int | None) -> None:
    """Two rows that share a beginning, read in three passes: pieces of prompts, a piece beside a writer, two writers."""
    source = torch.Generator().manual_seed(0)
    mine = pool()
    head, left, right = (mine.take(n) for n in (12, 9, 4))
    assert head is not None and left is not None and right is not None
    rows = {"left": np.concatenate([head, left]), "right": np.concatenate([head, right])}
    q, k, v = (torch.randn(2, 2, 30, heads, D, generator=source) for heads in (H, K, K))  # layer, row, token
    for x in (k, v):
        x[:, 1, :12] = x[:, 0, :12]
    read = {"left": 0, "right": 12}
    for passing in ([("left", 15), ("right", 3)], [("right", 1), ("left", 3)], [("left", 1), ("right", 0)], [("left", 1)], [("left", 1)]):
        parts = sorted([(name, count) for name, count in passing if count], key=lambda part: part[1] > 1)
        spans = [(("left", "right").index(name), read[name], read[name] + count) for name, count in parts]
        sight = Paged(mine, [Stretch(count, rows[name][: read[name] + count]) for name, count in parts])
        for layer in range(2):
            given = [torch.cat([x[layer, row, first:last] for row, first, last in spans]).transpose(0, 1) for x in (q, k, v)]
            out = sight.attend(*given, scaling=0.5, softcap=softcap, window=window)
            wanted = [
                plain(q[layer, row, place], k[layer, row, : place + 1], v[layer, row, : place + 1], softcap, window)
                for row, first, last in spans
                for place in range(first, last)
            ]
            torch.testing.assert_close(out, torch.stack(wanted), atol=2e-6, rtol=2e-5)
        for name, count in parts:
            read[name] += count
    assert read == {"left": 21, "right": 16}


def test_places_are_taken_and_given_back() -> None:
    mine = pool(10)
    first, second = mine.take(4), mine.take(6)
    assert first is not None and second is not None
    assert sorted([*first, *second]) == list(range(1, 11))
    assert mine.take(1) is None
    mine.give(first)
    assert mine.free == 4
    assert sorted(mine.take(4)) == sorted(first)  # type: ignore[type-var,arg-type]


def test_the_bytes_of_a_token_are_those_of_the_pool(tiny_model: Any) -> None:
    config = tiny_model().config
    mine = Pool.of(config, 7, dtype=torch.float32, device=torch.device("cpu"))
    assert token_bytes(config, torch.float32) * 8 == sum(x.nbytes for x in (*mine.keys, *mine.values))
