"""Slots: they change nothing by themselves, and leave no trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from luthier.models.slot import activate, answering, key, place, restore, slots


class Double(nn.Module):
    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        return 2 * base(x)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))


def test_an_empty_slot_is_its_base_and_leaves_no_trace() -> None:
    net, x = network(), torch.randn(2, 3)
    before, keys = net(x), list(net.state_dict())
    slot = place(net, "1.0")
    assert place(net, "1.0") is slot
    assert list(slots(net)) == ["1.0"]
    assert torch.equal(net(x), before)
    assert slot.weight is slot.base.weight
    restore(net)
    assert list(net.state_dict()) == keys
    assert not slots(net)


@pytest.mark.parametrize("name", ["desk", "v1.2:a", "keys", "pop"])
def test_naming_a_delta_is_all_it_takes(name: str) -> None:
    net, x = network(), torch.randn(2, 3)
    base = net(x)
    slot = place(net, "0")
    slot.host(name, Double())
    assert torch.equal(net(x), base), "hosting is not activating"
    activate(net, name)
    tuned = net(x)
    assert not torch.equal(tuned, base)
    assert slot.current is slot.delta(name)
    with answering(net, None):
        assert torch.equal(net(x), base)
        assert slot.current is None
    assert torch.equal(net(x), tuned)
    activate(net, "nobody")
    assert torch.equal(net(x), base)


def test_keys_never_collide() -> None:
    assert len({key(name) for name in ("a.b", "a-b", "a_b", "a:b")}) == 4
