"""Every method on the families that read something else than words: it moves what it says, is saved, loaded and merged - or is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from luthier.core.errors import SpecError
from luthier.core.fit import lacking
from luthier.core.registry import Folder
from luthier.core.sequence import Row
from luthier.core.spec import Part, Spec, TrainSpec
from luthier.data.said import Answers
from luthier.engine.score import outputs, score
from luthier.engine.session import Session
from luthier.jobs.fitting import base_offer, check_fit, method_offer, objective_offer, packing_offer
from luthier.methods._headed import Headed
from luthier.models.predictor import Predictor
from luthier.objectives import predict, sft
from methods.conftest import HEADS
from tiny_families import FAMILIES

METHODS = Folder("luthier.methods", "method")
REFUSED = {
    "t5": {"prompt", "prefix", "head", "bitfit"},
    "whisper": {"prompt", "prefix", "head"},
    "vit": {"prompt", "prefix"},
    "ast": {"prompt", "prefix"},
    "llava": set[str](),
}
"""What docs/families.md says does not go; T5 has no biases."""

TRAIN = TrainSpec(epochs=1, rows_per_step=2, learning_rate=1e-2, shuffle=False, schedule="constant", warmup=0)
DEFAULTS = {"peft": {"kind": "loha"}, "bitfit": {"added": True}}


def objective_of(family: str, name: str) -> Part:
    return Part(name="predict" if family in HEADS or "head" in METHODS.load(name).Method.needs else "sft")


def session(model: Any, family: str, name: str, rows: list[Row], part: Part) -> Session:
    """The method attached, and real steps on real rows."""
    module = METHODS.load(name)
    method = module.Method(module.Options(**part.options))
    method.attach(model, seed=0)
    if objective_of(family, name).name == "sft":
        return Session(model, method, sft.Objective(), rows=rows, train=TRAIN)
    settled, _ = predict.Objective().settle(rows, [], model.renderer, Answers("auto"))
    objective = predict.Objective(predict.Options(**settled))
    assert objective.meaning is not None
    model.predictor = Predictor(model.width, objective.meaning, seed=5)
    return Session(model, Headed(method), objective, rows=list(objective.lay(rows, model.renderer, Answers("auto"))), train=TRAIN)


def said(model: Any, rows: list[Row]) -> torch.Tensor:
    """Numbers that tell whether two models are alike: outputs of the head, or what answers are worth."""
    paths = [path for row in rows for path in row.sequences]
    if model.predictor is not None:
        return torch.from_numpy(np.concatenate(outputs(model, paths)))
    return torch.tensor([each.total for each in score(model, paths)])


CASES = [(family, name) for family in FAMILIES for name in METHODS.names()]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_method_works_or_is_refused(family: str, name: str, family_base: Any, family_rows: Any, tmp_path: Path) -> None:
    """What is claimed is trained, saved, loaded and merged; what is not is refused with the nearest that works."""
    model = family_base(family)
    part = Part(name=name, **({} if (family, name) == ("t5", "bitfit") else DEFAULTS.get(name, {})))
    spec = Spec(method=part, objective=objective_of(family, name))
    if name in REFUSED[family]:
        spec = spec.model_copy(update={"objective": Part(name="predict" if family in HEADS else "sft")})
        with pytest.raises(SpecError, match=r"The nearest that work: \w"):
            check_fit(spec, model)
        return
    check_fit(spec, model)
    table = family_rows(model, family)
    running = session(model, family, name, table, part)
    method, laid = running.method, list(running.rows)
    before, kept = said(model, laid), {n: p.detach().clone() for n, p in model.network.named_parameters() if not p.requires_grad}
    losses = [running.advance().loss for _ in range(running.steps)]
    assert all(np.isfinite(losses)) and not torch.equal(said(model, laid), before)
    assert all(torch.equal(p, kept[n]) for n, p in model.network.named_parameters() if n in kept), "the rest stays"
    after = said(model, laid)
    method.save(model, tmp_path / method.folder_name)
    other, kind = family_base(family), METHODS.load(name).Method
    if isinstance(method, Headed):
        Headed.load(kind, other, tmp_path / method.folder_name)
    else:
        kind.load(other, tmp_path / method.folder_name)
    torch.testing.assert_close(said(other, laid), after, rtol=1e-5, atol=1e-5)
    if "merge" in method.supports:
        method.merge(model)
        torch.testing.assert_close(said(model, laid), after, rtol=1e-3, atol=1e-4)


PACKED = [("t5", "int8"), ("whisper", "int8"), ("vit", "int8"), ("ast", "int8"), ("llava", "int8"), ("t5", "nf4"), ("llava", "nf4")]


@pytest.mark.parametrize(("family", "packing"), PACKED)
def test_lora_learns_beside_packed_weights(family: str, packing: str, family_base: Any, family_rows: Any) -> None:
    if packing == "nf4":
        pytest.importorskip("bitsandbytes")
    model = family_base(family, packing)
    part = Part(name="lora")
    offers = [base_offer(model), packing_offer(packing), method_offer(part), objective_offer(objective_of(family, "lora"))]
    assert not lacking(offers)
    running = session(model, family, "lora", family_rows(model, family), part)
    before = said(model, list(running.rows))
    running.advance()
    running.advance()
    assert not torch.equal(said(model, list(running.rows)), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_and_rewards_are_for_models_that_read_words(family: str, family_base: Any) -> None:
    model = family_base(family)
    for name, wrong in (("embed", "(reads words|has a state for every token)"), ("reward", "(writes the next token|has a state)")):
        spec = Spec(objective=Part(name=name))
        if family == "llava":
            check_fit(spec, model)
            continue
        nearest = "objective=predict" if family in HEADS else "objective=sft"
        with pytest.raises(SpecError, match=f"objective {name} wants a model that {wrong}.*The nearest that work: {nearest}"):
            check_fit(spec, model)
