"""Contrastive embeddings: the step is the batch, however it is packed; texts are found, base and tuned side by side."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from luthier.core.example import Message, Source
from luthier.core.sequence import Row
from luthier.core.spec import TrainSpec
from luthier.data.read import read
from luthier.data.said import Answer, answer
from luthier.engine.session import Session
from luthier.evaluation.nearness import embedded, places
from luthier.jobs.run import tune
from luthier.methods import full
from luthier.objectives import embed

TRAIN = TrainSpec(epochs=1, rows_per_step=16, learning_rate=1e-3)
TEXTS = [
    ("Where is it?", "The parcel is late.", ""),
    ("Where is it now?", "The parcel was sent.", "We are closed."),
    ("Money back", "A refund takes a week.", ""),
    ("When do you open?", "At nine.", "It broke."),
    ("Broken glass", "We send another.", ""),
]


class Said:
    def of(self, source: Source) -> Answer:
        asked, text, worse = TEXTS[source.row - 1]
        return Answer(text, (), asked, worse)


def laid(renderer: Any, objective: embed.Objective) -> Any:
    return objective.lay([Row(Source("texts", i + 1), []) for i in range(len(TEXTS))], renderer, Said())


def contrast(vector: Callable[[str], torch.Tensor]) -> torch.Tensor:
    """The formula over all texts at once, at a temperature of 0.3."""
    anchors = torch.stack([vector(asked) for asked, _, _ in TEXTS])
    others = torch.stack([vector(text) for _, text, _ in TEXTS] + [vector(worse) for _, _, worse in TEXTS if worse])
    return F.cross_entropy(anchors @ others.T / 0.3, torch.arange(len(TEXTS)))


@pytest.mark.parametrize("budget", [40, 100, 100_000])
def test_loss_and_gradients_are_those_of_the_whole_step(tiny_model: Any, twin: Any, tiny_renderer: Any, budget: int) -> None:
    model, objective = tiny_model(), embed.Objective(embed.Options(temperature=0.3))
    network = twin(model)
    method = full.Method()
    method.attach(model)

    def vector(text: str) -> torch.Tensor:
        tokens = torch.tensor([tiny_renderer.encode(text)])
        return F.normalize(network.base_model(input_ids=tokens).last_hidden_state[0].mean(0), dim=-1)

    wanted = contrast(vector)
    wanted.backward()
    rows = laid(tiny_renderer, objective)
    engine = Session(model, method, objective, rows=rows, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, weight = engine.gradient(engine._planned(list(rows), budget))
    assert weight == len(TEXTS)
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    ours = dict(model.network.named_parameters())
    for name, p in network.named_parameters():
        if p.grad is not None and p.grad.norm() > 0:
            assert (ours[name].grad - p.grad).norm() / p.grad.norm() < 1e-4, name


@pytest.mark.parametrize("budget", [40, 10_000])
def test_an_encoder_embeds_texts_it_reads_whole(tiny_encoder: Any, plain_renderer: Any, budget: int) -> None:
    """The mean of all states, as sentence encoders and the service have it."""
    model, objective = tiny_encoder(), embed.Objective(embed.Options(temperature=0.3))
    network = type(model.network)._from_config(copy.deepcopy(model.config), attn_implementation="eager", dtype=torch.float32).eval()
    network.load_state_dict(model.network.state_dict())
    method = full.Method()
    method.attach(model)

    def vector(text: str) -> torch.Tensor:
        tokens = torch.tensor([plain_renderer.prompt([Message("user", text)])])
        return F.normalize(network(input_ids=tokens).last_hidden_state[0].mean(0), dim=-1)

    wanted = contrast(vector)
    wanted.backward()
    rows = laid(plain_renderer, objective)
    engine = Session(model, method, objective, rows=rows, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, _ = engine.gradient(engine._planned(list(rows), budget))
    assert found == pytest.approx(wanted.item(), rel=1e-5)
    ours = dict(model.network.named_parameters())
    for name, p in network.named_parameters():
        if p.grad is not None and p.grad.norm() > 1e-6:
            assert (ours[name].grad - p.grad).norm() / p.grad.norm() < 1e-4, name


def test_places_are_counted_from_the_nearest(tiny_model: Any, tiny_renderer: Any) -> None:
    first, second = embedded(tiny_model(), list(laid(tiny_renderer, embed.Objective())))
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)
    near = first @ second.T
    wanted = [1 + sum(near[i, j] >= near[i, i] for j in range(len(near)) if j != i) for i in range(len(near))]
    assert places(first, second).tolist() == wanted
    assert places(np.ones((3, 1), np.float32), np.ones((3, 1), np.float32)).tolist() == [3, 3, 3], "who cannot tell finds nothing first"


ROWS = [
    ({"anchor": "a", "positive": "b"}, Answer("b", (), "a", "")),
    ({"query": "a", "positive": "b", "negative": "c"}, Answer("b", (), "a", "c")),
    ({"prompt": "a", "completion": "b"}, Answer("b", (), "a", "")),
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, Answer("b", (), "a", "c")),
]


@pytest.mark.parametrize(("row", "said"), ROWS)
def test_texts_that_belong_together_are_read(tmp_path: Path, row: dict[str, str], said: Answer) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for _ in range(3)))
    assert answer(next(iter(read(tmp_path / "rows.jsonl")))) == said  # type: ignore[arg-type]


def test_a_run_brings_texts_together(examples: Path, tiny_base: Path) -> None:
    dice = random.Random(0)
    words = ["red", "green", "blue", "grey", "pink", "gold", "teal", "plum", "rust", "sand"]
    rows = []
    for i in range(80):
        chosen = dice.sample(words, 3)
        rows.append({"anchor": f"{' '.join(chosen)} {i}", "positive": f"{' '.join(chosen[::-1])}!"})
    Path("texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = ["train.epochs=10", "train.rows_per_step=16", "train.learning_rate=1e-2", "model.dtype=float32"]
    run = tune("texts.jsonl", model=str(tiny_base), objective="embed", data={"valid": 0.3}, settings=settings)
    assert run.summary["metric"] == "found_first"
    assert run.summary["measures"]["reciprocal_rank"]["difference"] > 0
    assert "texts found first" in run.verdict
