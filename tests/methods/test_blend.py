"""Adapters combine: PEFT as the oracle for low-rank ones, the sum of their changes for all; and strength."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from luthier.core.errors import ModelError
from luthier.core.registry import Folder
from luthier.methods import bitfit, bottleneck, ia3, lora, prefix, prompt
from luthier.methods._blend import blend
from luthier.models.sight import Sight
from luthier.models.slot import activate, slots, strengthen

METHODS = Folder("luthier.methods", "method")
TOKENS_T = torch.tensor([5, 9, 77, 31, 8, 250, 4, 64, 12, 90])
Make = Callable[..., Any]


def logits(model: Any, name: str | None) -> Tensor:
    activate(model.network, name)
    length = len(TOKENS_T)
    sight = Sight(np.full(length, length), np.arange(length))
    return model.head()(model.states(tokens_T=TOKENS_T, positions_T=torch.arange(length), sight=sight)).detach()


def hosted(model: Any, method: Any, name: str) -> Any:
    """An adapter that says something, other for every name."""
    method.attach(model, name=name)
    generator = torch.Generator().manual_seed(len(name))
    for group in method.groups(model):
        for _, p in group.parameters:
            p.data.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return method


def close(found: Tensor, wanted: Tensor) -> None:
    assert (found - wanted).norm() <= 1e-4 * wanted.norm()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.parametrize(("how", "theirs_say"), [("sum", "linear"), ("concatenation", "cat")])
def test_low_rank_ones_combine_as_peft_does(how: Any, theirs_say: str, tiny_model: Make, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = tiny_model()
    plain = AutoModelForCausalLM.from_config(deepcopy(model.config), attn_implementation="eager").eval()
    plain.load_state_dict(model.network.state_dict())
    for name, alpha in (("a", 6), ("bcd", 10)):
        hosted(model, lora.Method(lora.Options(rank=4, alpha=alpha)), name).save(model, tmp_path / name)
    theirs = PeftModel.from_pretrained(plain, str(tmp_path / "a"), adapter_name="a")
    theirs.load_adapter(str(tmp_path / "bcd"), adapter_name="bcd")
    theirs.add_weighted_adapter(["a", "bcd"], [0.7, 0.4], "both", combination_type=theirs_say)
    theirs.set_adapter("both")
    blend(model, {"a": 0.7, "bcd": 0.4}, how=how, name="both")
    close(logits(model, "both"), theirs.eval()(TOKENS_T[None]).logits[0])


@pytest.mark.parametrize("kind", [lora, bottleneck], ids=["lora", "bottleneck"])
def test_side_by_side_each_linear_changes_by_the_weighted_sum(kind: Any, tiny_model: Make) -> None:
    """Of different sizes, and with a strength of their own."""
    model = tiny_model()
    sizes = [{"rank": 3}, {"rank": 5}] if kind is lora else [{"width": 3}, {"width": 5}]
    for name, options in zip(("a", "bcd"), sizes, strict=True):
        hosted(model, kind.Method(kind.Options(**options)), name)
    strengthen(model.network, "bcd", 0.5)
    blend(model, {"a": 0.7, "bcd": -0.4}, how="concatenation", name="both")
    with torch.no_grad():
        for place in slots(model.network).values():
            x = torch.randn(6, place.base.in_features)
            base = place.base(x)
            one, two, both = (place.delta(name)(x, place.base) - base for name in ("a", "bcd", "both"))
            close(both, 0.7 * one - 0.4 * two)


@pytest.mark.parametrize(
    ("kind", "options"), [(ia3, {}), (bitfit, {"added": True}), (prompt, {}), (prefix, {})], ids=["ia3", "bitfit", "prompt", "prefix"]
)
def test_vectors_are_added_by_weight(kind: Any, options: dict[str, Any], tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model()
    one, two = (hosted(model, kind.Method(kind.Options(**options)), name) for name in ("a", "bcd"))
    blend(model, {"a": 0.25, "bcd": 0.75}, how="sum", name="both")
    both = kind.Method(kind.Options(**options))
    both.name = "both"
    for name, tensor in both.state(model).items():
        close(tensor, 0.25 * one.state(model)[name] + 0.75 * two.state(model)[name])
    wanted = logits(model, "both")
    both.save(model, tmp_path / "both")
    other = tiny_model()
    kind.Method.load(other, tmp_path / "both", name="loaded")
    close(logits(other, "loaded"), wanted)


@pytest.mark.parametrize("kind", [prompt, prefix], ids=["prompt", "prefix"])
def test_leads_stand_one_behind_the_other(kind: Any, tiny_model: Make) -> None:
    model = tiny_model()
    for name, text in (("a", "Be brief. "), ("bcd", "Be kind. ")):
        kind.Method(kind.Options(tokens=len(model.renderer.encode(text)), begin=text)).attach(model, name=name)
    blend(model, {"a": 1, "bcd": 1}, how="concatenation", name="both")
    delta = slots(model.network)["model.embed_tokens"].delta("both")
    assert delta.count == len(model.renderer.encode("Be brief. ")) + len(model.renderer.encode("Be kind. "))
    if kind is prompt:
        text = torch.tensor(model.renderer.encode("Be brief. ") + model.renderer.encode("Be kind. "))
        assert torch.equal(delta.P, model.embedding().weight[text])
    with pytest.raises(ModelError, match="one behind the other has no weights"):
        blend(model, {"a": 0.5, "bcd": 1}, how="concatenation", name="half")


def test_what_does_not_combine_is_told(tiny_model: Make) -> None:
    model = tiny_model()
    hosted(model, lora.Method(lora.Options(rank=3)), "a")
    hosted(model, lora.Method(lora.Options(rank=5)), "bcd")
    hosted(model, lora.Method(lora.Options(rank=3, dora=True)), "dora")
    hosted(model, ia3.Method(), "ia3")
    for weights, how, text in (
        ({"a": 1, "bcd": 1}, "sum", "ranks 3, 5 cannot be added. Take how=concatenation"),
        ({"a": 1, "ia3": 1}, "sum", "LowRank and Stretch do not combine"),
        ({"dora": 1}, "sum", "Dora do not combine"),
        ({"ia3": 1}, "concatenation", "vectors have no side by side. Take how=sum"),
        ({"nobody": 1}, "sum", "no adapter called 'nobody'"),
    ):
        with pytest.raises(ModelError, match=text):
            blend(model, weights, how=how, name="both")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS.names())
def test_strength_goes_from_the_base_to_the_tuned(name: str, tiny_model: Make) -> None:
    options: dict[str, Any] = {"bitfit": {"added": True}, "peft": {"kind": "loha"}}.get(name, {})
    method = METHODS.load(name).Method(METHODS.load(name).Options(**options))
    model = tiny_model()
    base = logits(model, None)
    if "swap" not in method.supports or "still" in method.supports:
        return  # the network's own weights move, or nothing does
    hosted(model, method, "a")
    tuned = logits(model, "a")
    if "strength" not in method.supports:
        with pytest.raises(ModelError, match="an adapter without a strength"):
            strengthen(model.network, "a", 0.5)
        return
    found = []
    for strength in (0.0, 0.5, 1.0):
        strengthen(model.network, "a", strength)
        found.append(logits(model, "a"))
    close(found[0], base)
    close(found[2], tuned)
    assert 0 < (found[1] - base).norm() < (tuned - base).norm() * 1.5
    if "merge" in method.supports and name != "bitfit":
        strengthen(model.network, "a", 0.5)
        method.merge(model)
        close(logits(model, None), found[1])


@pytest.mark.parametrize("options", [{"dora": True}, {"begin": "pissa"}], ids=["dora", "pissa"])
def test_lora_s_relatives_have_a_strength_too(options: dict[str, Any], tiny_model: Make) -> None:
    model = tiny_model()
    base = logits(model, None)
    method = hosted(model, lora.Method(lora.Options(rank=4, **options)), "a")
    tuned = logits(model, "a")
    strengthen(model.network, "a", 0.0)
    close(logits(model, "a"), base)
    strengthen(model.network, "a", 0.5)
    half = logits(model, "a")
    assert 0 < (half - base).norm() < (tuned - base).norm() * 1.5
    method.merge(model)
    close(logits(model, None), half)


def test_hosting_others_changes_nothing(tiny_model: Make) -> None:
    model = tiny_model()
    hosted(model, lora.Method(lora.Options(rank=3)), "a")
    before = logits(model, "a")
    blend(model, {"a": 0.5}, how="concatenation", name="half")
    assert torch.equal(logits(model, "a"), before)
    assert isinstance(slots(model.network)["model.layers.0.mlp.up_proj"].base, nn.Linear)
