"""FlexAttention's form of the rule of sight, on the CPU: the block mask against torch's own, results against `TreeAttention`."""

import numpy as np
import pytest
import torch
from torch.nn.attention import flex_attention as theirs

from luthier.models import flex
from luthier.models.sight import Sight, TreeAttention, plain_attention

CPU = torch.device("cpu")


def forest(*, seed: int, tokens: int) -> Sight:
    """A random forest with nested forks: nodes of 1 to 200 tokens, up to six deep."""
    dice = np.random.default_rng(seed)
    ends, positions = np.empty(tokens, np.int64), np.empty(tokens, np.int64)

    def grow(start: int, end: int, depth: int, level: int) -> None:
        while start < end:
            node = min(end - start, int(dice.integers(1, 200)))
            subtree = min(end - start, node + int(dice.integers(0, 400)) * (level < 6))
            ends[start : start + node] = start + subtree
            positions[start : start + node] = depth + np.arange(node)
            grow(start + node, start + subtree, depth + node, level + 1)
            start += subtree

    grow(0, tokens, 0, 0)
    return Sight(ends, positions)


def near(sight: Sight, window: int | None) -> torch.Tensor:
    """The rule as a matrix, with the window counted on the path."""
    depth = torch.from_numpy(sight.positions_T)
    return sight.dense() & (depth[:, None] - depth[None, :] < (window or len(depth)))


def tensors(sight: Sight, *, heads: int = 4, kv_heads: int = 2, width: int = 16) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(h, len(sight.ends_T), width) for h in (heads, kv_heads, kv_heads)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("window", [None, 90])
@pytest.mark.parametrize(("seed", "tokens"), [(0, 64), (1, 128), (2, 1000), (3, 1536), (4, 2047)])
def test_the_block_mask_loses_nothing_and_promises_nothing_wrong(seed: int, tokens: int, window: int | None) -> None:
    sight = forest(seed=seed, tokens=tokens)
    rule = near(sight, window)
    asked, complete = flex.blocks(sight.ends_T, sight.positions_T, window)
    count = -(-tokens // flex.BLOCK)
    for i in range(count):
        for j in range(count):
            part = rule[i * flex.BLOCK : (i + 1) * flex.BLOCK, j * flex.BLOCK : (j + 1) * flex.BLOCK]
            assert bool(part.all()) or not complete[i, j]
            assert asked[i, j] or complete[i, j] or not part.any()
            if window is None:
                assert bool(part.any()) == bool(asked[i, j] or complete[i, j]), "no block is computed in vain"
    assert not (asked & complete).any()


def test_the_block_mask_is_the_one_torch_finds_by_looking_at_every_pair() -> None:
    sight = forest(seed=5, tokens=12 * flex.BLOCK)
    ours = flex.block_mask(sight, CPU)
    wanted = theirs.create_block_mask(ours.mask_mod, None, None, 12 * flex.BLOCK, 12 * flex.BLOCK, device="cpu", BLOCK_SIZE=flex.BLOCK)
    for name in ("kv_num_blocks", "full_kv_num_blocks", "q_num_blocks", "full_q_num_blocks"):
        assert torch.equal(getattr(ours, name).flatten(), getattr(wanted, name).flatten()), name
    assert torch.equal(ours.to_dense(), wanted.to_dense())
    assert flex.block_mask(sight, CPU) is ours, "made once for all layers"


@pytest.fixture
def without_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain form on a CPU, also backward: torch has it, but refuses it there because it is slow."""
    monkeypatch.setattr(theirs, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(theirs, "_validate_device", lambda *_: None)


@pytest.mark.usefixtures("without_warning")
@pytest.mark.parametrize(("softcap", "window"), [(None, None), (3.0, None), (None, 50), (3.0, 50)])
@pytest.mark.parametrize("seed", [6, 7])
def test_it_equals_attention_node_by_node_forward_and_backward(seed: int, softcap: float | None, window: int | None) -> None:
    sight = forest(seed=seed, tokens=300)
    ours, wanted = tensors(sight), tensors(sight)
    found = flex.attention(*ours, sight, 0.25, softcap=softcap, window=window)
    if softcap is None and window is None:
        reference = TreeAttention.apply(*wanted, sight, 0.25)
    else:
        reference = plain_attention(*wanted, sight, 0.25, softcap=softcap, window=window)
    torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()
    (reference * weights).sum().backward()
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("without_warning")
@pytest.mark.parametrize("heads", [(4, 4), (4, 1)])
def test_it_equals_dense_attention_under_the_rule(heads: tuple[int, int]) -> None:
    sight = forest(seed=8, tokens=200)
    q, k, v = tensors(sight, heads=heads[0], kv_heads=heads[1])
    found = flex.attention(q, k, v, sight, 0.3)
    dense = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=sight.dense(), scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found, dense[0].transpose(0, 1), rtol=1e-5, atol=1e-5)
