"""What every method promises, whatever its name: a new file in ``methods/`` is held to it without further work.

``luthier methods --matrix`` prints what is claimed; these are the tests of it, on dense and packed bases alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from luthier.core.errors import LuthierError, ModelError, SpecError
from luthier.core.spec import Part, Spec
from luthier.engine.ahead import planned
from luthier.engine.watch import Watch
from luthier.jobs.fitting import check_fit
from luthier.models.fused import FusedBlock
from luthier.models.sight import Sight

from .conftest import METHODS, Case

TOKENS_T = torch.tensor([5, 9, 77, 31, 8, 250, 4, 64, 12, 90, 17, 3])


def logits(model: Any) -> Tensor:
    """What the network says of every token: of the next one, or, where it says none, along directions that never move."""
    length = len(TOKENS_T)
    sight = Sight(np.full(length, length), np.arange(length))
    states_TD = model.states(tokens_T=TOKENS_T, positions_T=torch.arange(length), sight=sight)
    if "next-token" in model.family.GIVES:
        return model.head()(states_TD)
    states_TD = states_TD + model.summary(states_TD[:1])  # with what heads of rows read
    return states_TD @ torch.randn(model.width, 300, generator=torch.Generator().manual_seed(4))


def train(model: Any, method: Any, *, steps: int = 3) -> list[float]:
    """A few real steps on a real loss."""
    if "still" in method.supports:
        return [1.0, 0.0]  # what learns is the objective's head, in sessions
    rate = 0.001 if "whole" in method.supports else 0.01
    groups = [{"params": [p for _, p in g.parameters], "lr": rate * g.rate} for g in method.groups(model)]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits(model)[:-1], TOKENS_T[1:])
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def base_weights(model: Any) -> dict[str, Tensor]:
    """Everything that is not a delta: parameters and packed values."""
    everything = {**dict(model.network.named_parameters()), **dict(model.network.named_buffers())}
    return {name: t.detach().clone() for name, t in everything.items() if ".deltas." not in name}


def test_before_the_first_step_it_answers_as_it_says(case: Case) -> None:
    model = case.model()
    before = logits(model)
    method = case.attached(model)
    if "begins-as-base" not in method.supports:
        assert not torch.equal(logits(model), before), "then it could say that it begins as the base"
    elif "fused" in method.supports:
        assert torch.equal(logits(model), before)
    else:  # the block takes its plain form, which rounds elsewhere
        torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)


def test_exactly_what_is_declared_moves(case: Case) -> None:
    model = case.model()
    method = case.attached(model)
    declared = {id(p) for g in method.groups(model) for _, p in g.parameters}
    before, buffers = {key: p.detach().clone() for key, p in model.network.named_parameters()}, base_weights(model)
    assert declared == {id(p) for p in model.network.parameters() if p.requires_grad}
    losses = train(model, method, steps=4)
    assert losses[-1] < losses[0]
    for key, p in model.network.named_parameters():
        assert torch.equal(p, before[key]) == (id(p) not in declared), key
    for key, buffer in model.network.named_buffers():
        assert ".deltas." in key or torch.equal(buffer, buffers[key]), f"{key}: packed weights never move"


def test_state_is_what_moves_and_comes_back(case: Case) -> None:
    model, other = case.model(), case.model()
    method, again = case.attached(model), case.attached(other, seed=7 if dict(case.options).get("begin") != "pissa" else 0)
    assert sum(t.numel() for t in method.state(model).values()) == model.num_trained
    train(model, method)
    again.load_state(other, {key: t.clone() for key, t in method.state(model).items()})
    assert torch.equal(logits(other), logits(model))


def test_a_strangers_state_is_refused(case: Case) -> None:
    model = case.model()
    method = case.attached(model)
    state = method.state(model)
    with pytest.raises(ModelError, match="saved from another model"):
        method.load_state(model, dict(list(state.items())[1:]) or {"another": torch.zeros(1)})


def test_saved_and_loaded_answers_the_same(case: Case, tmp_path: Path) -> None:
    model, other = case.model(), case.model()
    method = case.attached(model)
    train(model, method)
    method.save(model, tmp_path / method.folder_name)
    loaded = case.module.Method.load(other, tmp_path / method.folder_name, name="other")
    torch.testing.assert_close(logits(other), logits(model), rtol=0, atol=1e-6 if case.options else 0)
    assert loaded.state(other).keys() == method.state(model).keys() or "projection" in dict(case.options)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")], "no half-written folder stays"


def test_merged_is_plain_and_answers_the_same(case: Case) -> None:
    model, plain = case.model(), case.model()
    method = case.attached(model)
    if "merge" not in method.supports:
        assert not hasattr(method, "merge") or case.method == "bitfit", "what can merge says so"
        pytest.skip(f"{case.method} does not merge")
    train(model, method)
    before = logits(model)
    method.merge(model)
    torch.testing.assert_close(logits(model), before, rtol=1e-4, atol=1e-5)
    if not case.packing:
        assert model.network.state_dict().keys() == plain.network.state_dict().keys()


def test_the_base_can_be_asked_or_it_says_that_it_cannot(case: Case) -> None:
    model = case.model()
    base = logits(model)
    method = case.attached(model)
    train(model, method)
    tuned, before = logits(model), base_weights(model)
    with method.active(model, True):
        assert torch.equal(logits(model), tuned)
    if "swap" in method.supports:
        with method.active(model, False):
            assert torch.equal(logits(model), base), "the base is untouched, and its fast path is back"
    else:
        with pytest.raises(ModelError, match="cannot answer as the base"), method.active(model, False):
            pass
    assert torch.equal(logits(model), tuned)
    assert torch.equal(tuned, base) == ("still" in method.supports)
    assert all(torch.equal(t, before[name]) for name, t in base_weights(model).items())


def test_two_of_them_swap(case: Case) -> None:
    """Hot swap: both are hosted, one is named, and each answers as if it were alone."""
    model = case.model()
    first = case.attached(model, name="first")
    if "swap" not in first.supports:
        pytest.skip(f"{case.method} overwrites the base")
    train(model, first)
    alone = logits(model)
    second = case.attached(model, seed=3, name="second")
    train(model, second, steps=1)
    with first.active(model, True):
        torch.testing.assert_close(logits(model), alone, rtol=0, atol=0)
    assert torch.equal(logits(model), alone) == ("still" in first.supports)


def test_in_a_forest_it_computes_what_rows_alone_do(case: Case, rows: Any) -> None:
    """Loss and gradient of a step whose rows share their beginning, against one row after another."""
    model = case.model()
    method = case.attached(model)
    assert "trees" in method.supports
    train(model, method, steps=2)  # a delta that says something
    session = case.session(model, method, rows)
    method, rows = session.method, list(session.rows)
    found, weight = session.gradient(planned(rows, session.budget))
    together = {name: p.grad.clone() for g in method.groups(model) for name, p in g.parameters if p.grad is not None}
    session.optimiser.forget()
    total = 0.0
    apart = {name: torch.zeros_like(t) for name, t in together.items()}
    for row in rows:
        loss, own = session.gradient(planned([row], session.budget))
        total += loss * own
        for group in method.groups(model):
            for name, p in group.parameters:
                if p.grad is not None:
                    apart[name] += p.grad * own / weight
        session.optimiser.forget()
    assert found == pytest.approx(total / weight, rel=1e-5)
    for name, gradient in together.items():
        assert (gradient - apart[name]).norm() <= 1e-4 * gradient.norm() + 1e-9, name


def test_stopped_and_resumed_it_ends_byte_equal(case: Case, rows: Any, tmp_path: Path) -> None:
    def watched(folder: str) -> Watch:
        model = case.model()
        method = case.attached(model, seed=5)
        return Watch(case.session(model, method, rows), tmp_path / folder, save_every=2)

    def weights(watch: Watch) -> dict[str, Tensor]:
        return watch.session.method.state(watch.session.model)

    whole, torn = watched("whole"), watched("torn")
    list(whole.run())
    steps = torn.run()
    while torn.session.step < 3:
        next(steps)
    again = watched("torn")
    again.resume()
    assert again.session.step == 2
    list(again.run())
    assert all(torch.equal(t, weights(again)[name]) for name, t in weights(whole).items())


def test_blocks_run_fused_where_it_says_so(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused or not, the answer is that of the plain block."""
    model = case.model()
    if case.packing or case.kind != "llama":
        pytest.skip("only dense blocks of known layers can run fused")
    method = case.attached(model)
    train(model, method, steps=2)
    seen: list[bool] = []
    fits = FusedBlock._fits
    monkeypatch.setattr(FusedBlock, "_fits", lambda self, *given: seen.append(fits(self, *given)) or seen[-1])
    found = logits(model)
    assert all(seen) == ("fused" in method.supports)
    monkeypatch.setattr(FusedBlock, "_fits", lambda *_: False)
    torch.testing.assert_close(found, logits(model), rtol=1e-4, atol=1e-5)


def test_what_is_not_claimed_is_refused_with_the_nearest_that_works(any_case: Case) -> None:
    spec = Spec(method=Part(name=any_case.method, **dict(any_case.options)), objective=any_case.objective)
    if any_case.fits():
        check_fit(spec, any_case.model())
        return
    with pytest.raises(SpecError, match=r"The nearest that work: \w"):
        check_fit(spec, any_case.model())
    if not any_case.packing and any_case.method == "bitfit":  # also by the method itself
        with pytest.raises(LuthierError, match="has no biases"):
            any_case.attached(any_case.model())


@pytest.mark.parametrize("name", METHODS.names())
def test_every_setting_has_its_help(name: str) -> None:
    for key, field in METHODS.load(name).Options.model_fields.items():
        assert field.description, f"{name}.{key}"
