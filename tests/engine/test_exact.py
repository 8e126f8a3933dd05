"""The engine and the teaching loop compute the same loss and the same gradients, however rows are packed."""

import copy
import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM

from luthier.core.example import Example, Source
from luthier.core.sequence import Row
from luthier.core.spec import TrainSpec
from luthier.data.read import read
from luthier.engine.ahead import planned
from luthier.engine.loss import logprobs, weighted_loss
from luthier.engine.session import Session
from luthier.methods import full
from luthier.models.load import load_folder
from luthier.objectives import sft

CHANGES = [
    {},
    {"model_type": "qwen3", "tie_word_embeddings": True},
    {"model_type": "gemma2", "final_logit_softcapping": 0.05, "sliding_window": 12, "tie_word_embeddings": True},
    {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
]
TRAIN = TrainSpec(epochs=1, rows_per_step=8, learning_rate=1e-3)


class Plain:
    """The same objective written out: the engine then takes its general path."""

    per = "weight"

    def loss(self, forest):
        return -(forest.weights_N * forest.logprobs()).sum()


def plain_twin(model):
    """The network with transformers' own eager attention and the same weights."""
    config = copy.deepcopy(model.network.config)
    twin = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    twin.load_state_dict(model.network.state_dict())
    return twin


def session(model, rows, objective=None, **changes):
    method = full.Method()
    method.attach(model)
    return Session(model, method, objective or sft.Objective(), rows=rows, train=TRAIN.model_copy(update=changes))


def gradients(network):
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def close(found, wanted, tolerance):
    for name, gradient in wanted.items():
        distance = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
        assert distance < tolerance, f"{name}: {distance:.2e}"


@pytest.mark.parametrize("objective", [sft.Objective(), Plain()], ids=["linear", "general"])
@pytest.mark.parametrize("budget", [48, 130, 100_000])
@pytest.mark.parametrize("changes", CHANGES, ids=["llama", "qwen3-tied", "gemma2-capped", "mixtral"])
def test_loss_and_gradients_equal_the_teaching_loop(tiny_model, bushy_rows, oracle, budget, objective, changes):
    model = tiny_model(**changes)
    twin, rows = plain_twin(model), bushy_rows()
    wanted = oracle.step_gradient(twin, rows)
    engine = session(model, rows, objective, tokens_per_pack=budget)
    found, _ = engine.gradient(planned(rows, engine.budget))
    assert found == pytest.approx(wanted, rel=1e-5)
    close(gradients(model.network), gradients(twin), 1e-5)


def test_eight_rows_at_once_equal_eight_times_one(tiny_model, bushy_rows):
    rows = bushy_rows()[:8]
    together, single = tiny_model(), tiny_model()
    engine = session(together, rows)
    engine.gradient(planned(rows, engine.budget))
    apart = session(single, rows)
    weight_of = [sum(float(s.weights.sum()) for s in row.sequences) for row in rows]
    gathered = [torch.zeros_like(gradient) for gradient in apart.optimiser.gradients()]
    for row, weight in zip(rows, weight_of, strict=True):
        apart.gradient(planned([row], apart.budget))
        for gradient, sum_ in zip(apart.optimiser.gradients(), gathered, strict=True):
            sum_ += gradient * (weight / sum(weight_of))
        apart.optimiser.forget()
    for gradient, sum_ in zip(apart.optimiser.gradients(), gathered, strict=True):
        gradient.copy_(sum_)
    close(gradients(single.network), gradients(together.network), 1e-5)


FILES = ["data/ft_llamafactory/alpaca_en_demo.json", "data/ft_fastchat/dummy_conversation.json", "bench/works/support.jsonl"]


@pytest.mark.parametrize("file", FILES)
def test_real_rows_equal_the_teaching_loop(shared, oracle, file):
    model = load_folder(shared / "models/stories260k", dtype="float32")
    examples = [e for e in itertools.islice(read(shared / file), 60) if isinstance(e, Example)]
    rendered = (Row(e.source, model.renderer.render(e)) for e in examples)
    rows = [row for row in rendered if sum(len(s.tokens) for s in row.sequences) <= 700][:3]
    assert len(rows) == 3
    wanted = oracle.step_gradient(twin := plain_twin(model), rows)
    engine = session(model, rows, tokens_per_pack=600)
    found, _ = engine.gradient(planned(rows, engine.budget))
    assert found == pytest.approx(wanted, rel=1e-5)
    close(gradients(model.network), gradients(twin), 1e-5)


def test_ten_steps_follow_the_teaching_loop(tiny_model, bushy_rows, oracle):
    """Optimiser, clipping and schedule too."""
    model = tiny_model()
    twin, rows = plain_twin(model), bushy_rows(count=40)[:40]
    wanted = oracle.train(twin, rows, steps=5, rows_per_step=8, highest=1e-3)
    engine = session(model, rows, shuffle=False)
    found = [engine.advance().loss for _ in range(5)]
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("softcap", [None, 0.7])
def test_chunked_loss_equals_all_logits_at_once(monkeypatch, softcap):
    monkeypatch.setattr("luthier.engine.loss.CHUNK", 3)
    monkeypatch.setattr("luthier.engine.loss.HEAD_ROWS", 5)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(10, 6, generator=generator, requires_grad=True)
    head = torch.randn(17, 6, generator=generator, requires_grad=True)
    targets, weights = torch.randint(0, 17, (10,), generator=generator), torch.rand(10, generator=generator)
    logits = states @ head.T if softcap is None else softcap * torch.tanh(states @ head.T / softcap)
    naive = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    wanted = torch.autograd.grad(-(weights * naive).sum(), (states, head))
    loss, found = weighted_loss(states, head, targets, weights, softcap=softcap)
    assert torch.allclose(found, naive)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(torch.autograd.grad(loss, (states, head)), wanted, strict=True))
    general = -(weights * logprobs(states, head, targets, softcap=softcap)).sum()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(torch.autograd.grad(general, (states, head)), wanted, strict=True))
    frozen = -(weights * logprobs(states, head.detach(), targets, softcap=softcap)).sum()
    assert torch.allclose(torch.autograd.grad(frozen, states)[0], wanted[0], atol=1e-6)


def test_a_hopeless_target_keeps_its_log_probability():
    """Its probability underflows in fp32; the loss must not become infinite."""
    states, head = torch.tensor([[200.0, 0.0]]), torch.eye(2)
    assert logprobs(states, head, torch.tensor([1])).item() == pytest.approx(-200.0)


def test_first_steps_name_the_row_that_is_not_finite(tiny_model, bushy_rows):
    from luthier.core.errors import ResultError

    model, rows = tiny_model(), bushy_rows()[:8]
    for row in rows:
        row.sequences[0].tokens[:] = row.sequences[0].tokens.clip(max=318)
    rows[4].sequences[0].tokens[2] = 319  # only this row reads the damaged embedding
    model.embedding().weight.data[319] = float("nan")
    engine = session(model, rows, shuffle=False)
    before = {k: v.clone() for k, v in engine.optimiser.state().items()}
    with pytest.raises(ResultError, match=r"Step 1: the loss is nan.*Not finite by itself: rows row 5\.") as caught:
        engine.advance()
    assert caught.value.code == "not_finite"
    assert all(torch.equal(before[k].nan_to_num(), v.nan_to_num()) for k, v in engine.optimiser.state().items())


def test_a_step_that_teaches_nothing_says_so(tiny_model, bushy_rows):
    from luthier.core.errors import ResultError

    model, rows = tiny_model(), bushy_rows()[:2]
    for row in rows:
        row.sequences[0].weights[:] = 0
    with pytest.raises(ResultError, match="teach nothing"):
        session(model, rows).advance()


def test_source_of_rows_is_kept():
    assert str(Source("tickets.csv", 7)) == "tickets.csv row 7"
