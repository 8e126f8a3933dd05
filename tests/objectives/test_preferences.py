"""ORPO, SimPO, KTO and reward models over the token tree equal their formulas on one answer at a time, as TRL writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from luthier.core.sequence import Row, Sequence
from luthier.core.spec import TrainSpec
from luthier.data.read import read
from luthier.engine.ahead import planned
from luthier.engine.beside import Beside, observed
from luthier.engine.session import Session
from luthier.jobs.run import tune
from luthier.methods import full
from luthier.methods._headed import Headed
from luthier.models.predictor import Predictor
from luthier.objectives import kto, orpo, reward, simpo

from .conftest import naive_logprobs, side

TRAIN = TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3)


def log1mexp(x: torch.Tensor) -> torch.Tensor:
    """As in trl/experimental/orpo/orpo_trainer.py."""
    return torch.where(x < -0.6931471805599453, torch.log1p(-torch.exp(x)), torch.log(-torch.expm1(x)))


def mean(network: Any, row: Row, part: str) -> torch.Tensor:
    return side(network, row, part) / sum(int((s.weights > 0).sum()) for s in row.sequences if s.part == part)


def naive_orpo(network: Any, row: Row, o: orpo.Options) -> torch.Tensor:
    chosen, rejected = mean(network, row, "chosen"), mean(network, row, "rejected")
    log_odds = (chosen - rejected) - (log1mexp(chosen) - log1mexp(rejected))
    return -chosen - o.strength * F.logsigmoid(log_odds)


def naive_simpo(network: Any, row: Row, o: simpo.Options) -> torch.Tensor:
    logits = mean(network, row, "chosen") - mean(network, row, "rejected") - o.margin / o.beta  # trl/experimental/cpo/cpo_trainer.py
    return -F.logsigmoid(o.beta * logits)


CASES = [
    (orpo.Objective(orpo.Options(strength=0.7)), naive_orpo),
    (simpo.Objective(simpo.Options(beta=2.5, margin=0.8)), naive_simpo),
]


@pytest.mark.parametrize("budget", [40, 100_000])
@pytest.mark.parametrize(("objective", "naive"), CASES, ids=["orpo", "simpo"])
def test_loss_and_gradients_equal_the_formula(tiny_model: Any, pair_rows: Any, twin: Any, objective: Any, naive: Any, budget: int) -> None:
    model, rows = tiny_model(), pair_rows()
    network = twin(model)
    wanted = torch.stack([naive(network, row, objective.options) for row in rows]).mean()
    wanted.backward()
    found = gradient(model, objective, rows, budget)
    assert found == pytest.approx(wanted.item(), rel=2e-5)
    same_gradients(model, network)


def gradient(model: Any, objective: Any, rows: Any, budget: int, method: Any = None) -> float:
    if method is None:
        method = full.Method()
        method.attach(model)
    engine = Session(model, method, objective, rows=rows, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, weight = engine.gradient(engine._planned(list(rows), budget))
    assert weight == len(rows)
    return found


def same_gradients(model: Any, network: Any) -> None:
    ours = dict(model.network.named_parameters())
    for name, p in network.named_parameters():
        if p.grad is not None and p.grad.norm() > 0:
            distance = (ours[name].grad - p.grad).norm() / p.grad.norm()
            assert distance < 1e-4, f"{name}: {distance:.1e}"


def judged(rows: list[Row]) -> list[Row]:
    """Every other row by its better answer, the others by their worse one."""
    return [Row(row.source, [row.sequences[i % 2]]) for i, row in enumerate(rows)]


@pytest.mark.parametrize("budget", [40, 100_000])
@pytest.mark.parametrize("shift", [0.05, -0.05], ids=["above the base", "below it"])
def test_kto_takes_the_step_s_own_estimate_of_the_distance(tiny_model: Any, pair_rows: Any, twin: Any, budget: int, shift: float) -> None:
    """As trl/trainer/kto_trainer.py, `kto`, with the next row's answer in the place of the next in the batch."""
    model, rows = tiny_model(), judged(pair_rows())
    objective = kto.Objective(kto.Options(beta=0.3, desirable=1.2, undesirable=0.7))
    base = twin(model)
    crossed = objective.lay(rows, model.renderer, None)
    known = Beside(crossed, observed(model, crossed, range(len(rows))))
    method = full.Method()
    method.attach(model)
    generator = torch.Generator().manual_seed(3)
    for p in model.network.parameters():
        p.data += abs(shift) * torch.randn(p.shape, generator=generator)
    policy = twin(model)

    def ratio(sequence: Sequence) -> torch.Tensor:
        with torch.no_grad():
            reference = naive_logprobs(base, sequence).sum()
        return naive_logprobs(policy, sequence).sum() - reference

    with torch.no_grad():
        others = []
        for i, row in enumerate(rows):
            mine, theirs = row.sequences[0], rows[(i + 1) % len(rows)].sequences[0]
            prompt, answer = (int(np.flatnonzero(s.weights)[0]) for s in (mine, theirs))
            room = max(len(mine.tokens), len(theirs.tokens)) - prompt
            tokens = np.concatenate([mine.tokens[:prompt], theirs.tokens[answer : answer + room]])
            others.append(ratio(Sequence(tokens, (np.arange(len(tokens)) >= prompt).astype(np.float32))))
        kl = torch.stack(others).mean().clamp(min=0)
    losses = []
    for row in rows:
        good = row.sequences[0].part == "chosen"
        gap = ratio(row.sequences[0]) - kl if good else kl - ratio(row.sequences[0])
        losses.append((1.2 if good else 0.7) * (1 - torch.sigmoid(0.3 * gap)))
    wanted = torch.stack(losses).mean()
    wanted.backward()
    assert gradient(model, objective, known, budget, method) == pytest.approx(wanted.item(), rel=2e-5)
    same_gradients(model, policy)


def test_kto_lays_other_answers_aside(pair_rows: Any) -> None:
    rows = list(kto.Objective().lay(judged(pair_rows()), None, None))  # type: ignore[arg-type]
    plan = planned(rows, 1000, per="row", aside="elsewhere")
    assert plan.weight == len(rows)
    assert {part for pack in plan.packs for part in pack.parts} == {"chosen", "rejected"}
    assert {part for pack in plan.aside for part in pack.parts} == {"elsewhere"}


@pytest.mark.parametrize("budget", [60, 100_000])
def test_a_reward_model_scores_the_last_word_of_each_answer(tiny_model: Any, pair_rows: Any, twin: Any, budget: int) -> None:
    model, rows = tiny_model(), pair_rows()[:6]
    network, objective = twin(model), reward.Objective(reward.Options(centre=0.2))
    method = full.Method()
    method.attach(model)
    model.predictor = Predictor(32, objective.meaning, seed=2)  # type: ignore[arg-type]
    head = Predictor(32, objective.meaning, seed=2)  # type: ignore[arg-type]
    losses = []
    for row in rows:
        scores = {}
        for s in row.sequences:
            states = network.base_model(input_ids=torch.from_numpy(s.tokens[:-1]).long()[None]).last_hidden_state[0]
            scores[s.part] = head(states[-1:])[0, 0]
        losses.append(-F.logsigmoid(scores["chosen"] - scores["rejected"]) + 0.2 * (scores["chosen"] + scores["rejected"]) ** 2)
    wanted = torch.stack(losses).mean()  # trl/trainer/reward_trainer.py, with center_rewards_coefficient
    wanted.backward()
    found = gradient(model, objective, objective.lay(rows, model.renderer, None), budget, Headed(method))
    assert found == pytest.approx(wanted.item(), rel=2e-5)
    torch.testing.assert_close(model.predictor.weight.grad, head.weight.grad, rtol=1e-4, atol=1e-6)
    same_gradients(model, network)


JUDGED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "Hi", "completion": "Hello.", "label": True}, "chosen"),
    ({"question": "Hi", "answer": "Go away.", "kto_tag": False, "system": "Be kind."}, "rejected"),
    ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}], "label": True}, "chosen"),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "No."}], "kto_tag": False}, "rejected"),
    ({"prompt": [{"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello."}], "label": True}, "chosen"),
]


@pytest.mark.parametrize(("row", "part"), JUDGED)
def test_judged_rows_are_read(tmp_path: Path, tiny_renderer: Any, row: dict[str, Any], part: str) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for _ in range(3)))
    example = next(iter(read(tmp_path / "rows.jsonl")))
    assert (example.form, example.label) == ("judged", "good" if part == "chosen" else "bad")  # type: ignore[union-attr]
    (sequence,) = tiny_renderer.render(example)
    assert sequence.part == part
    assert sequence.weights.any()


def test_real_judged_rows_are_read(shared: Path) -> None:
    rows = list(read(shared / "data/ft_llamafactory/kto_en_demo.json"))
    assert len(rows) == 300
    assert {getattr(row, "form", "") for row in rows} == {"judged"}


def test_a_run_on_judged_answers(examples: Path, tiny_base: Path) -> None:
    settings = ["train.epochs=6", "train.rows_per_step=8", "train.learning_rate=3e-3", "model.dtype=float32", "evaluate.rows=4"]
    run = tune("judged.jsonl", model=str(tiny_base), objective="kto", data={"valid": 0.3}, settings=settings)
    assert run.summary["metric"] == "reward_accuracy"
    assert run.summary["verdict"]["better"] == "tuned"
    assert "pair_accuracy" not in run.summary["measures"], "there are no pairs"
