"""A step on an accelerator, rehearsed without one: tensors that only have shapes and devices refuse to be mixed or looked at."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from luthier.core.spec import TrainSpec
from luthier.engine import loss
from luthier.engine.ahead import planned
from luthier.engine.session import Session
from luthier.methods import lora
from luthier.methods._lowrank import LowRank
from luthier.models import flex
from luthier.objectives import sft

CARD = torch.device("cuda", 0)


def dense(q, k, v, *, score_mod, block_mask, scale, enable_gqa):
    """Stands for the compiled kernel; asks the mask for every pair, so that what it reads must be on the card."""
    index = torch.arange(q.shape[2], device=q.device)
    seen = block_mask.mask_mod(None, None, index[:, None], index[None, :])
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)


class NoOptimiser:
    def __init__(self, *_):
        pass

    def collect(self):
        pass

    def gradients(self):
        return []


def to_card(network):
    """Only shapes: nothing is copied."""
    for module in network.modules():
        for name, weight in list(module._parameters.items()):
            if weight is not None:
                module._parameters[name] = nn.Parameter(torch.empty(weight.shape, dtype=weight.dtype, device=CARD), requires_grad=False)
        for name, buffer in list(module._buffers.items()):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=CARD)


@pytest.mark.filterwarnings("ignore:User provided device_type")  # torch sees no card here, and it is right
@pytest.mark.parametrize("linear", [True, False])
def test_a_forest_is_computed_on_the_card_without_waiting_for_it(tiny_model, bushy_rows, monkeypatch, linear):
    monkeypatch.setattr("luthier.engine.session.Optimiser", NoOptimiser)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(flex, "_kernel", lambda _: dense)
    monkeypatch.setattr(LowRank, "begin", lambda *_, **__: None)
    monkeypatch.setattr(sft.Objective, "linear", linear)
    model, rows = tiny_model(dtype="bfloat16"), bushy_rows()
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_card(model.network)
        method = lora.Method()
        method.attach(model)
        session = Session(model, method, sft.Objective(), rows=rows, train=TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3))
        for pack in planned(rows, 200).packs:
            found = session.loss(pack)
            assert found.device == CARD
            (found / 3.0).backward()
        assert all(delta.B.grad.device == CARD for delta in method.deltas(model).values())


def test_a_hopeless_target_is_rescued_without_looking():
    logits = torch.tensor([[200.0, 0.0, -3.0], [1.0, 2.0, 3.0], [-90.0, 5.0, 60.0]])
    targets = torch.tensor([1, 0, 0])
    p = logits.softmax(-1)
    found = loss._rescued(logits, p, targets[:, None], p.gather(1, targets[:, None]).squeeze(1))
    np.testing.assert_allclose(found, logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1), rtol=1e-6)
