"""What a teacher thinks, and what the base thought: distances equal those over all logits, one row at a time; found once and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from luthier.core.errors import NotFound, SpecError
from luthier.core.events import Event, Note, Progress, Stage
from luthier.core.sequence import Row
from luthier.core.spec import TrainSpec
from luthier.engine.ahead import planned
from luthier.engine.beside import Beside, observed
from luthier.engine.loss import choices, top
from luthier.engine.session import Session
from luthier.inference.generate import generate
from luthier.jobs.asked import NewJob, spec_of
from luthier.jobs.beforehand import _likeliest
from luthier.jobs.replaying import Mixed
from luthier.jobs.run import tune
from luthier.methods import full
from luthier.models.load import fresh, load, save
from luthier.objectives import distill, sft

TRAIN = TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3)


def test_log_probabilities_of_some_tokens_equal_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.engine.loss.CHUNK", 3)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(10, 6, generator=generator, requires_grad=True)
    head = torch.randn(17, 6, generator=generator, requires_grad=True)
    ids = torch.stack([torch.randperm(17, generator=generator)[:4] for _ in range(10)])
    slope = torch.randn(10, 4, generator=generator)
    naive = (states @ head.T / 1.7).log_softmax(-1).gather(1, ids)
    wanted = torch.autograd.grad((slope * naive).sum(), (states, head))
    found = choices(states, head, ids, temperature=1.7)
    torch.testing.assert_close(found, naive)
    for ours, theirs in zip(torch.autograd.grad((slope * found).sum(), (states, head)), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    likeliest, logprobs = top(states, head, 5, temperature=1.7)
    expected = (states @ head.T / 1.7).log_softmax(-1).topk(5)
    assert torch.equal(likeliest, expected.indices)
    torch.testing.assert_close(logprobs, expected.values.detach())


def distance(teacher: torch.Tensor, student: torch.Tensor, keep: int, *, reverse: bool) -> torch.Tensor:
    """Of one row's log-probabilities ``[T, V]``: the `keep` likeliest of the teacher, and all others as one outcome."""
    if keep >= teacher.shape[-1]:
        pair = (student, teacher) if reverse else (teacher, student)
        return F.kl_div(pair[1], pair[0], reduction="none", log_target=True).sum(-1)
    ids = teacher.topk(keep).indices
    p, q = ([logs.gather(1, ids), torch.log1p(-logs.gather(1, ids).exp().sum(-1, keepdim=True))] for logs in (teacher, student))
    p, q = torch.cat(p, -1), torch.cat(q, -1)
    return (q.exp() * (q - p)).sum(-1) if reverse else (p.exp() * (p - q)).sum(-1)


def all_logprobs(network: Any, row: Row, temperature: float) -> torch.Tensor:
    (sequence,) = row.sequences
    learned = torch.from_numpy(np.flatnonzero(sequence.weights))
    logits = network(input_ids=torch.from_numpy(sequence.tokens).long()[None], use_cache=False).logits[0].float()
    return (logits[learned - 1] / temperature).log_softmax(-1)


def single(rows: list[Row]) -> list[Row]:
    """One path of each row."""
    return [Row(row.source, row.sequences[:1]) for row in rows]


CASES = [
    (distill.Options(teacher="x", share=0.7, temperature=2.0), 320),
    (distill.Options(teacher="x", share=1.0), 8),
    (distill.Options(teacher="x", share=0.4, direction="reverse", temperature=1.5), 320),
    (distill.Options(teacher="x", share=0.4, direction="reverse"), 8),
    (sft.Options(leash=0.6), 8),
]


@pytest.mark.parametrize("budget", [60, 100_000])
@pytest.mark.parametrize(("options", "keep"), CASES, ids=["forward", "forward top 8", "reverse", "reverse top 8", "leash"])
def test_loss_and_gradients_equal_those_over_all_logits(
    tiny_model: Any, twin: Any, pair_rows: Any, options: Any, keep: int, budget: int
) -> None:
    rows = single(pair_rows())
    module = distill if isinstance(options, distill.Options) else sft
    objective = module.Objective(options)
    heat = getattr(options, "temperature", 1.0)
    teacher, model = tiny_model(seed=9), tiny_model()
    for p in teacher.network.parameters():
        p.data *= 3.0  # a random network is sure of nothing
    known = Beside(rows, observed(teacher, rows, range(len(rows)), lambda forest: _likeliest(keep, heat, forest)))
    method = full.Method()
    method.attach(model)
    network, other = twin(model), twin(teacher)
    total, weight = torch.zeros(()), 0.0
    share, reverse = getattr(options, "share", options.leash if module is sft else 0), getattr(options, "direction", "") == "reverse"
    for row in rows:
        weights = torch.from_numpy(row.sequences[0].weights[row.sequences[0].weights > 0])
        with torch.no_grad():
            theirs = all_logprobs(other, row, heat)
        far = (weights * distance(theirs, all_logprobs(network, row, heat), keep, reverse=reverse)).sum()
        targets = torch.from_numpy(row.sequences[0].tokens[np.flatnonzero(row.sequences[0].weights)]).long()
        surprise = (weights * F.cross_entropy(all_logprobs(network, row, 1.0), targets, reduction="none")).sum()
        total = total + ((surprise + share * far) if module is sft else (1 - share) * surprise + share * heat**2 * far)
        weight += float(weights.sum())
    (total / weight).backward()
    engine = Session(model, method, objective, rows=known, train=TRAIN.model_copy(update={"tokens_per_pack": budget}))
    found, _ = engine.gradient(planned(list(known), budget))
    assert found == pytest.approx(total.item() / weight, rel=1e-4)
    ours = dict(model.network.named_parameters())
    for name, p in network.named_parameters():
        if p.grad is not None and p.grad.norm() > 1e-6:
            assert (ours[name].grad - p.grad).norm() / p.grad.norm() < 2e-3, name


def test_replayed_rows_make_their_share_and_are_evenly_spread(pair_rows: Any) -> None:
    rows, others = pair_rows(count=8)[:8], pair_rows(seed=1)[:4]
    mixed = Mixed(rows, others, share=0.2)
    assert len(mixed) == 10
    assert [mixed[i].source for i in range(8)] == [row.source for row in rows]
    assert [mixed[i] for i in (8, 9)] == [others[0], others[2]]
    assert len(Mixed(rows, others, share=0.5)) == 16, "few others come several times"


SETTINGS = ["train.max_steps=4", "train.rows_per_step=4", "model.dtype=float32", "evaluate.rows=2", "evaluate.max_tokens=8"]


def test_a_run_with_replay_and_leash(examples: Path, tiny_base: Path) -> None:
    heard: list[Event] = []
    objective = {"name": "sft", "replay": "pairs.jsonl", "replay_share": 0.25, "leash": 0.5}
    run = tune("tickets.jsonl", model=str(tiny_base), objective=objective, settings=SETTINGS, listen=heard.append)
    assert Path(run.spec.objective.options["replay"]).is_absolute()
    totals = [e.total for e in heard if isinstance(e, Progress) and e.stage == "teacher"]
    assert len(totals) == 2
    assert run.verdict
    with pytest.raises(NotFound, match="no such file of rows to replay"):
        tune("tickets.jsonl", model=str(tiny_base), objective={"name": "sft", "replay": "gone.jsonl"}, settings=SETTINGS)


def test_a_student_learns_from_another_run_and_its_thoughts_are_kept(examples: Path, tiny_base: Path) -> None:
    teacher = tune("tickets.jsonl", model=str(tiny_base), settings=SETTINGS, out=examples / "teacher")
    heard: list[Event] = []
    objective = {"name": "distill", "teacher": "teacher", "share": 1.0}
    run = tune("tickets.jsonl", model=str(tiny_base), objective=objective, settings=SETTINGS, listen=heard.append)
    assert run.spec.objective.options["teacher"] == str(teacher.folder)
    assert [e for e in heard if isinstance(e, Progress) and e.stage == "teacher"]
    heard.clear()
    tune("tickets.jsonl", model=str(tiny_base), objective=objective | {"share": 0.5}, settings=SETTINGS, listen=heard.append)
    assert not [e for e in heard if isinstance(e, Progress) and e.stage == "teacher"], "kept, whatever its share"


def test_a_teacher_with_other_tokens_may_only_write(examples: Path, tiny_base: Path, tiny_renderer: Any) -> None:
    stranger = fresh(
        {
            "model_type": "llama",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 320,
        },
        renderer=tiny_renderer,
        seed=0,
        dtype="float32",
    )
    save(stranger, examples / "stranger")
    with pytest.raises(SpecError, match="writes other tokens than") as caught:
        tune("tickets.jsonl", model=str(tiny_base), objective={"name": "distill", "teacher": "stranger"}, settings=SETTINGS)
    assert caught.value.code == "teacher"


def test_the_teacher_writes_what_the_student_learns(examples: Path, tiny_base: Path) -> None:
    settings = ["train.epochs=12", "train.rows_per_step=8", "train.learning_rate=1e-2", "model.dtype=float32", "evaluate.rows=2"]
    tune("tickets.jsonl", model=str(tiny_base), settings=settings, out=examples / "teacher")
    rows = [json.loads(line) for line in Path("tickets.jsonl").read_text().splitlines()]
    for row in rows:
        row["messages"][-1]["content"] = "Nobody knows."
    Path("silent.jsonl").write_text("\n".join(map(json.dumps, rows)))
    heard: list[Event] = []
    objective = {"name": "distill", "teacher": "teacher", "answers": "teacher", "share": 0.0}
    run = tune("silent.jsonl", model=str(tiny_base), objective=objective, settings=settings, listen=heard.append)
    assert "teach" in [e.name for e in heard if isinstance(e, Stage)]
    assert not [e for e in heard if isinstance(e, Note) and "did not end" in e.text]
    model = load(str(tiny_base), dtype="float32")
    prompt = model.renderer.prompt_of(next(iter(run_examples(run))))
    said = run.model.renderer.decode(generate(run.model, [prompt], max_tokens=8, stop=model.renderer.end_tokens)[0].answer)
    assert said != "Nobody knows."


def run_examples(run: Any) -> Any:
    from luthier.data.select import Selected

    return Selected.of(Path(run.spec.data.file))


@pytest.mark.parametrize("objective", [{"name": "sft", "replay": "/etc/hosts"}, {"name": "distill", "teacher": "/srv/models/x"}])
def test_no_file_of_the_server_is_named_over_the_wire(objective: dict[str, str]) -> None:
    with pytest.raises(SpecError, match="would name a place on the server") as caught:
        spec_of(NewJob(model="luthier-mini", training_file="file-1", luthier={"objective": objective}))
    assert caught.value.code == "not_for_wire"
