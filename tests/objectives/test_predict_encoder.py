"""Heads on encoders: loss and gradients equal transformers' own classifiers, one row at a time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from luthier.core.example import Example, Message, Source
from luthier.core.sequence import Row
from luthier.core.spec import TrainSpec
from luthier.engine.ahead import planned
from luthier.engine.session import Session
from luthier.methods import full, lora
from luthier.methods._headed import Headed
from luthier.models.predictor import Predictor
from luthier.objectives import predict

from .conftest import WORDLESS

TRAIN = TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3)
LABELS = ["bad", "good", "odd"]
TYPES = {
    "bert": "BertForSequenceClassification",
    "roberta": "RobertaForSequenceClassification",
    "distilbert": "DistilBertForSequenceClassification",
    "modernbert": "ModernBertForSequenceClassification",
}
SPECIAL: dict[str, dict[str, Any]] = {
    "roberta": {"type_vocab_size": 1},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    "modernbert": {
        "local_attention": 6,
        "global_attn_every_n_layers": 2,
        "sep_token_id": 2,
        "cls_token_id": 1,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}


def rows_of(renderer: Any) -> list[Row]:
    """Texts that begin alike."""
    made = []
    for n in range(9):
        source, text = Source("rows", n + 1), "The same beginning of a text, " + "and more " * (n % 3)
        example = Example(source, messages=[Message("user", text + "."), Message("assistant", LABELS[n % 3])])
        made.append(Row(source, renderer.render(example, learn="last_answer")))
    return made


def asked(rows: list[Row], renderer: Any) -> predict.Objective:
    found, _ = predict.Objective(predict.Options()).settle(rows, [], renderer, WORDLESS)
    return predict.Objective(predict.Options(**found))


@pytest.mark.parametrize("budget", [60, 10_000])
@pytest.mark.parametrize("kind", TYPES)
def test_loss_and_gradients_equal_transformers_classifier(kind: str, budget: int, tiny_encoder: Any, plain_renderer: Any) -> None:
    said = {"id2label": dict(enumerate(LABELS)), "label2id": {label: n for n, label in enumerate(LABELS)}}
    model = tiny_encoder(kind, TYPES[kind], **SPECIAL.get(kind, {}), **said)
    rows = rows_of(plain_renderer)
    objective = asked(rows, plain_renderer)
    own = model.predictor
    twin: Any = type(model.network)._from_config(copy.deepcopy(model.config), attn_implementation="eager", dtype=torch.float32).eval()
    twin.load_state_dict(model.network.state_dict())
    wanted = torch.stack([_loss(twin, row, plain_renderer) for row in rows]).mean()
    wanted.backward()

    method = full.Method()
    method.attach(model)
    assert objective.meaning is not None
    model.predictor = Predictor(32, objective.meaning, seed=5)
    model.predictor.begin_as(own)
    laid = objective.lay(rows, plain_renderer, WORDLESS)
    session = Session(model, Headed(method), objective, rows=laid, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    plan = planned(list(laid), budget)
    assert (len(plan.packs) > 1) == (budget == 60)
    assert all(len(pack.tokens_T) == sum(len(laid[n].sequences[0].tokens) for n in pack.members) for pack in plan.packs)
    found, _ = session.gradient(plan)
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    linear = getattr(twin.classifier, "out_proj", twin.classifier)
    torch.testing.assert_close(model.predictor.weight.grad, linear.weight.grad, rtol=1e-3, atol=1e-6)
    mine = dict(model.network.named_parameters())
    for name, p in twin.named_parameters():
        if p.grad is not None and p is not linear.weight and p is not linear.bias:
            assert (mine[name].grad - p.grad).norm() < 1e-4 * p.grad.norm() + 1e-7, name


def _loss(network: Any, row: Row, renderer: Any) -> torch.Tensor:
    tokens, learned = row.sequences[0].tokens.tolist(), row.sequences[0].weights > 0
    label = renderer.decode(row.sequences[0].tokens[learned].tolist())
    return F.cross_entropy(network(torch.tensor([tokens[: int((~learned).sum())]])).logits, torch.tensor([LABELS.index(label)]))


@pytest.mark.parametrize("method", [full.Method(), lora.Method(lora.Options(rank=4))], ids=["full", "lora"])
def test_an_encoder_learns_its_rows(method: Any, tiny_encoder: Any, plain_renderer: Any) -> None:
    model, rows = tiny_encoder("bert", "BertForMaskedLM"), rows_of(plain_renderer)
    objective = asked(rows, plain_renderer)
    method.attach(model, seed=0)
    model.predictor = Predictor(32, objective.meaning, seed=5)  # type: ignore[arg-type]
    laid = objective.lay(rows, plain_renderer, WORDLESS)
    train = TRAIN.model_copy(update={"epochs": 30, "learning_rate": 1e-2})
    session = Session(model, Headed(method), objective, rows=laid, train=train)
    losses = [session.advance().loss for _ in range(session.steps)]
    assert losses[-1] < 0.7 * losses[0]
