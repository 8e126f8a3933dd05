"""DPO over the token tree equals the formula on one answer at a time, and the reference is the base's own word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from luthier.core.events import Event, Progress, Stage
from luthier.core.sequence import Row
from luthier.core.spec import TrainSpec
from luthier.engine.ahead import planned
from luthier.engine.beside import Beside, observed
from luthier.engine.session import Session
from luthier.evaluation.likelihood import likelihood
from luthier.jobs.run import tune
from luthier.methods import full, lora
from luthier.objectives import dpo

from .conftest import naive_logprobs, side

TRAIN = TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3)


def pair_loss(policy: torch.nn.Module, base: torch.nn.Module, row: Row, options: dpo.Options) -> torch.Tensor:
    """As TRL writes it (trl/trainer/dpo_trainer.py, `sigmoid`, `ipo`, `hinge`), for one pair; the smoothing after Mitchell."""
    with torch.no_grad():
        ref_chosen, ref_rejected = (side(base, row, part) for part in ("chosen", "rejected"))
    chosen_scores = side(policy, row, "chosen") - ref_chosen
    rejected_scores = side(policy, row, "rejected") - ref_rejected
    beta = options.beta
    if options.kind == "ipo":
        lengths = [sum((s.weights > 0).sum() for s in row.sequences if s.part == part) for part in ("chosen", "rejected")]
        delta = chosen_scores / lengths[0] - rejected_scores / lengths[1]
        curve: Callable[[Any], Any] = lambda d: (d - 1 / (2 * beta)) ** 2  # noqa: E731
    else:
        delta = chosen_scores - rejected_scores
        curve = (lambda d: -F.logsigmoid(beta * d)) if options.kind == "sigmoid" else (lambda d: torch.relu(1 - beta * d))
    return (1 - options.label_smoothing) * curve(delta) + options.label_smoothing * curve(-delta)


def with_reference(model: Any, rows: list[Row]) -> Beside:
    return Beside(rows, observed(model, rows, range(len(rows))))


def moved(model: Any, by: float = 0.05) -> None:
    """Weights that are no longer those of the base."""
    generator = torch.Generator().manual_seed(1)
    for p in model.network.parameters():
        if p.requires_grad:
            p.data += by * torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("budget", [40, 130, 100_000])
@pytest.mark.parametrize(
    "options",
    [dpo.Options(), dpo.Options(beta=0.5, label_smoothing=0.2), dpo.Options(kind="ipo"), dpo.Options(kind="hinge", beta=2.0)],
    ids=["sigmoid", "smoothed", "ipo", "hinge"],
)
def test_loss_and_gradients_equal_the_formula_pair_by_pair(
    tiny_model: Any, pair_rows: Any, twin: Any, budget: int, options: dpo.Options
) -> None:
    model, rows = tiny_model(), pair_rows()
    base = twin(model)
    known = with_reference(model, rows)
    method = full.Method()
    method.attach(model)
    moved(model)
    policy = twin(model)
    wanted = torch.stack([pair_loss(policy, base, row, options) for row in rows]).mean()
    wanted.backward()
    engine = Session(model, method, dpo.Objective(options), rows=known, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, weight = engine.gradient(planned(list(known), budget, per="row"))
    assert weight == len(rows)
    assert found == pytest.approx(wanted.item(), rel=2e-5)
    for name, p in policy.named_parameters():
        if p.grad is not None and p.grad.norm() > 0:
            distance = (dict(model.network.named_parameters())[name].grad - p.grad).norm() / p.grad.norm()
            assert distance < 5e-5, f"{name}: {distance:.1e}"


def test_with_an_adapter_the_head_is_multiplied_in_the_forward_pass_and_nothing_changes(tiny_model: Any, pair_rows: Any) -> None:
    """The gradient of an adapter through the engine's chunked head, and through all logits of one path at a time."""
    model, rows = tiny_model(), pair_rows()
    known = with_reference(model, rows)
    method = lora.Method(lora.Options(rank=4))
    method.attach(model, seed=3)
    moved(model)
    engine = Session(model, method, dpo.Objective(), rows=known, train=TRAIN)
    engine.gradient(planned(list(known), 150, per="row"))
    found = {name: p.grad.clone() for name, p in model.network.named_parameters() if p.requires_grad}
    model.network.zero_grad()
    engine.optimiser.forget()
    total = torch.zeros(())
    for row in known:
        gaps = {}
        for part in ("chosen", "rejected"):
            paths = [s for s in row.sequences if s.part == part]
            gaps[part] = torch.stack(
                [(naive_logprobs(Alone(model), s) - torch.from_numpy(s.beside["reference"])).sum() for s in paths]
            ).sum()
        total = total - F.logsigmoid(0.1 * (gaps["chosen"] - gaps["rejected"]))
    (total / len(rows)).backward()
    for name, p in model.network.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-7)


class Alone(torch.nn.Module):
    """A model of ours on one path, with all logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *, input_ids: torch.Tensor, use_cache: bool) -> Any:
        from luthier.models.sight import Sight

        length = input_ids.shape[1]
        sight = Sight(np.full(length, length), np.arange(length))
        states = self.model.states(tokens_T=input_ids[0], positions_T=torch.arange(length), sight=sight)
        return type("Out", (), {"logits": self.model.head()(states)[None]})


def test_the_reference_is_what_plain_transformers_says_of_the_base(tiny_model: Any, pair_rows: Any, twin: Any) -> None:
    model, rows = tiny_model(), pair_rows()
    base = twin(model)
    known = with_reference(model, rows)
    for row in known:
        for sequence in row.sequences:
            with torch.no_grad():
                np.testing.assert_allclose(sequence.beside["reference"], naive_logprobs(base, sequence), atol=2e-5)


def test_rows_that_are_not_asked_for_are_not_read(tiny_model: Any, pair_rows: Any) -> None:
    model, rows = tiny_model(), pair_rows()
    some = Beside(rows, observed(model, rows, [1, 4]))
    known = [np.concatenate([s.beside["reference"] for s in row.sequences]).any() for row in some]
    assert [i for i, there in enumerate(known) if there] == [1, 4]


def test_both_answers_lie_behind_their_prompt_once(pair_rows: Any) -> None:
    row = pair_rows()[3]
    (pack,) = planned([row], 1000, per="row").packs
    prompt = int(np.flatnonzero(row.sequences[0].weights)[0])
    assert len(pack.tokens_T) == sum(len(s.tokens) for s in row.sequences) - prompt


def test_what_held_out_pairs_are_judged_by(tiny_model: Any, pair_rows: Any, twin: Any) -> None:
    model, rows = tiny_model(), pair_rows()
    network = twin(model)
    found = likelihood(model, rows)
    with torch.no_grad():
        wanted = [float(side(network, row, "chosen") - side(network, row, "rejected")) for row in rows]
    np.testing.assert_allclose(found.margin_R, wanted, atol=1e-3)


def test_a_run_learns_the_preference_and_asks_the_base_once(examples: Path, tiny_base: Path) -> None:
    settings = ["train.epochs=6", "train.rows_per_step=8", "train.learning_rate=3e-3", "model.dtype=float32", "evaluate.rows=4"]
    heard: list[Event] = []
    arguments: Any = {"model": str(tiny_base), "data": {"valid": 0.3}, "listen": heard.append}
    run = tune("pairs.jsonl", objective={"name": "dpo", "beta": 0.2}, settings=settings, **arguments)
    assert run.summary["metric"] == "reward_accuracy"
    assert run.summary["verdict"]["base"] == 50.0
    assert run.summary["verdict"]["better"] == "tuned"
    assert "points of reward accuracy" in run.verdict
    assert {"reward_margin", "pair_accuracy", "bits_per_byte"} <= run.summary["measures"].keys()
    assert [e.total for e in heard if isinstance(e, Progress) and e.stage == "reference"] == [31, 9]
    heard.clear()
    tune("pairs.jsonl", objective={"name": "dpo", "beta": 0.5, "kind": "ipo"}, settings=settings, **arguments)
    assert "reference" in [e.name for e in heard if isinstance(e, Stage)]
    assert not [e for e in heard if isinstance(e, Progress) and e.stage == "reference"], "it was kept, whatever the settings"
