"""Learning from grades: the loss is TRL's one answer at a time; answers share their prompt; runs are functions of seed and step."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.core.errors import SpecError
from luthier.core.example import Source
from luthier.core.sequence import Row
from luthier.core.spec import TrainSpec
from luthier.data.read import read
from luthier.data.said import Items
from luthier.engine.ahead import planned
from luthier.engine.session import Session
from luthier.export import export
from luthier.jobs import specs
from luthier.jobs.run import train_only, tune
from luthier.methods import full
from luthier.objectives import grpo

from .conftest import naive_logprobs

TRAIN = TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3)


def drawn(seed: int = 0) -> list[Row]:
    """Three prompts with four answers each, graded, with what some base thinks of them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(3):
        prompt = rng.integers(0, 320, 18 + i).tolist()
        values = grpo.advantages(rng.random(4).tolist())
        paths = [grpo.sampled(prompt, rng.integers(0, 320, rng.integers(2, 14)).tolist(), advantage=a) for a in values]
        for path in paths:
            path.beside[grpo.REFERENCE] = (-5 + rng.random(len(path.beside[grpo.REFERENCE]))).astype(np.float32)
        rows.append(Row(Source("drawn", i + 1), paths))
    return rows


@pytest.mark.parametrize("budget", [50, 100_000])
@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_loss_and_gradients_are_trls(tiny_model: Any, twin: Any, beta: float, budget: int) -> None:
    """As trl/trainer/grpo_trainer.py: per_token_loss with `dapo` normalisation, on policy (old log-probabilities are the present ones)."""
    model, rows = tiny_model(), drawn()
    network = twin(model)
    total, tokens = torch.zeros(()), 0
    for row in rows:
        for sequence in row.sequences:
            per_token_logps = naive_logprobs(network, sequence)
            advantage = torch.from_numpy(sequence.beside[grpo.ADVANTAGE])
            ref = torch.from_numpy(sequence.beside[grpo.REFERENCE])
            coef_1 = torch.exp(per_token_logps - per_token_logps.detach())
            per_token_kl = torch.exp(ref - per_token_logps) - (ref - per_token_logps) - 1
            total = total + (-coef_1 * advantage + beta * per_token_kl).sum()
            tokens += len(advantage)
    (total / tokens).backward()
    method = full.Method()
    method.attach(model)
    objective = grpo.Objective(grpo.Options(beta=beta))
    engine = Session(model, method, objective, rows=rows, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, weight = engine.gradient(planned(rows, budget))
    assert weight == tokens
    assert found == pytest.approx(total.item() / tokens, rel=1e-4, abs=1e-5)
    ours = dict(model.network.named_parameters())
    for name, p in network.named_parameters():
        if p.grad is not None and p.grad.norm() > 1e-6:
            assert (ours[name].grad - p.grad).norm() / p.grad.norm() < 1e-3, name


def test_advantages_are_trls() -> None:
    grades = torch.tensor([0.0, 1.0, 1.0, 0.25])
    wanted = (grades - grades.mean()) / (grades.std() + 1e-4)
    assert grpo.advantages(grades.tolist()) == pytest.approx(wanted.tolist())
    assert grpo.advantages([0.5, 0.5]) == [0.0, 0.0]


def test_answers_share_their_prompt() -> None:
    row = drawn()[0]
    (pack,) = planned([row], 1000).packs
    prompt = 18
    assert len(pack.tokens_T) == prompt + sum(len(s.tokens) - prompt for s in row.sequences)


@pytest.fixture(scope="module")
def speaker(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that has learned to answer tickets with one of two labels, whichever."""
    folder, dice = tmp_path_factory.mktemp("speaker"), random.Random(0)
    rows = []
    for i in range(48):
        turns = [{"role": "user", "content": f"My parcel, number {i}."}, {"role": "assistant", "content": dice.choice(LABELS)}]
        rows.append({"messages": turns})
    (folder / "tickets.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(folder / "home"))
        settings = ["train.epochs=25", "train.rows_per_step=8", "train.learning_rate=2e-2", "model.dtype=float32", "evaluate.rows=0"]
        run = tune(folder / "tickets.jsonl", model=str(tiny_base), method="full", settings=settings)
        (folder / "says").write_text(run.chat("My parcel, number 3."))
        export("merged", run.model, run.method, folder / "merged")
    return folder


LABELS = ("refund", "parcel")
GRADES = {"name": "grpo", "samples": 4, "max_tokens": 6}
SETTINGS = ["train.max_steps=8", "train.rows_per_step=4", "train.learning_rate=3e-3", "model.dtype=float32", "evaluate.rows=20"]
SETTINGS += ["train.save_every=4", "train.validate_every=4"]


def test_a_run_climbs_its_grader(speaker: Path) -> None:
    other = next(label for label in LABELS if label != (speaker / "says").read_text())
    told = {**GRADES, "grader": {"type": "string_check", "reference": other}}
    run = tune(speaker / "tickets.jsonl", model=str(speaker / "merged"), objective=told, settings=SETTINGS, data={"valid": 0.4})
    assert run.summary["metric"] == "grade"
    assert run.summary["verdict"]["better"] == "tuned"
    assert "points of grade" in run.verdict
    steps = [json.loads(line) for line in (run.folder / "steps.jsonl").read_text().splitlines()]
    looks = [step["loss"] for step in steps if step["kind"] == "validated"]
    assert looks[-1] < 0.2, "one minus the mean grade"


def test_a_run_is_a_function_of_its_seed(speaker: Path, tmp_path: Path) -> None:
    losses = []
    for name in ("one", "two"):
        spec = specs.gather(
            data=str(speaker / "tickets.jsonl"), model=str(speaker / "merged"), objective=GRADES, settings=[*SETTINGS, "train.max_steps=2"]
        )
        folder = train_only(spec, out=tmp_path / name).path
        steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
        losses.append([(step["loss"], step.get("gradient_norm")) for step in steps])
    assert losses[0] == losses[1]


def test_several_processes_are_refused(speaker: Path) -> None:
    with pytest.raises(SpecError, match="answers its own prompts, which 2 processes cannot share yet"):
        tune(speaker / "tickets.jsonl", model=str(speaker / "merged"), objective=GRADES, settings=[*SETTINGS, "train.processes=2"])


def test_questions_without_answers_keep_the_fields_graders_look_at(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"{i} + 1?"}], "reference_answer": str(i + 1), "unit": {"name": "m"}} for i in range(3)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    example: Any = next(iter(read(file)))
    assert [m.content for m in example.messages] == ["0 + 1?", "1"]
    item = Items().of(Source(str(file), 2))
    assert (item["answer"], item["reference_answer"], item["unit"]) == ("2", "2", {"name": "m"})
