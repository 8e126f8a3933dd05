"""A step on an accelerator, rehearsed without one: tensors of torch's meta device refuse to be mixed with the CPU's or looked at."""

import numpy as np
import pytest
import torch
from torch import nn

from luthier.core.spec import TrainSpec
from luthier.engine import loss
from luthier.engine.ahead import planned
from luthier.engine.beside import Blank
from luthier.engine.session import Session
from luthier.methods import lora
from luthier.methods._lowrank import LowRank
from luthier.models import flex
from luthier.objectives import dpo, sft

CARD = torch.device("meta")


def dense(q, k, v, *, score_mod, block_mask, scale, enable_gqa):
    """Stands for the compiled kernel; asks the mask for every pair, so that what it reads must be on the card."""
    index = torch.arange(q.shape[2], device=q.device)
    seen = block_mask.mask_mod(None, None, index[:, None], index[None, :])
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)


class Plain:
    per = "weight"

    def loss(self, forest):
        return -(forest.weights_N * forest.logprobs()).sum()


class NoOptimiser:
    def __init__(self, *_):
        pass


@pytest.mark.parametrize("objective", [sft.Objective(), Plain(), dpo.Objective()], ids=["linear", "general", "pairs"])
def test_a_forest_is_computed_on_the_card_without_waiting_for_it(tiny_model, bushy_rows, monkeypatch, objective):
    monkeypatch.setattr("luthier.engine.session.Optimiser", NoOptimiser)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(flex, "_kernel", lambda _: dense)
    monkeypatch.setattr(LowRank, "begin", lambda *_, **__: None)
    model, rows = tiny_model(dtype="bfloat16"), list(Blank(bushy_rows(), {"reference": ((), np.float32)}))
    model.network.to(CARD)
    method = lora.Method()
    method.attach(model)
    session = Session(model, method, objective, rows=rows, train=TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3))
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
