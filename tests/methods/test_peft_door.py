"""Every tuner that `method: peft` offers: as PEFT itself computes and saves it, trained, swapped and merged like our own methods."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import ValidationError

from luthier.core.errors import MissingPart, ModelError, SpecError
from luthier.core.spec import Spec
from luthier.methods import peft
from luthier.methods._tuners import KINDS
from luthier.models import slot
from luthier.models.model import Model

from .test_against_peft import TOKENS_T, close, logits, loss_of, plain_network, shaken

Make = Callable[..., Model]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

SMALL: dict[str, dict[str, Any]] = {
    "fourierft": {"n_frequency": 50},
    "miss": {"r": 4},
    "psoft": {"r": 4},
    "road": {"group_size": 16},
    "shira": {"r": 2},
    "vblora": {"vector_length": 16, "num_vectors": 8, "r": 2},
    "waveft": {"n_frequency": 50},
}
"""Settings for tuners whose own are too large for a network this small."""


def tuned(make: Make, kind: str, **settings: Any) -> tuple[Model, peft.Method]:
    model = make()
    method = peft.Method(peft.Options(kind=kind, settings=SMALL.get(kind, {}) | settings))
    method.attach(model, seed=3)
    return model, method


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_it_computes_learns_and_saves_as_peft_does(kind: str, tiny_model: Make, tmp_path: Path) -> None:
    base = logits(tiny_model()).detach()
    model, method = tuned(tiny_model, kind)
    begins = torch.allclose(logits(model).detach(), base, rtol=1e-4, atol=1e-5)
    assert begins == ("begins-as-base" in method.supports)
    learned = dict(entry for group in method.groups(model) for entry in group.parameters)
    assert model.num_trained == sum(p.numel() for p in learned.values()) > 0
    shaken(learned.values(), size=0.05)
    found = logits(model)
    assert not torch.allclose(found, base, atol=1e-4)
    method.save(model, tmp_path / "ours")
    theirs = PeftModel.from_pretrained(plain_network(tiny_model()), str(tmp_path / "ours"), is_trainable=True).eval()
    wanted = theirs(TOKENS_T[None]).logits[0]
    close(found, wanted)
    loss_of(found).backward()
    loss_of(wanted).backward()
    expected = sorted(float(p.grad.norm()) for p in theirs.parameters() if p.grad is not None)
    assert sorted(float(p.grad.norm()) for p in learned.values() if p.grad is not None) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    with method.active(model, False):
        torch.testing.assert_close(logits(model).detach(), base, rtol=1e-5, atol=1e-5)
    method.merge(model)
    assert not [path for path, _ in model.network.named_modules() if "tuner" in path]
    torch.testing.assert_close(logits(model), found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["boft", "loha", "lokr", "oft", "vera"])
def test_what_peft_wrote_is_read(kind: str, tiny_model: Make, tmp_path: Path) -> None:
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind.upper()](target_modules=["q_proj", "down_proj"])
    theirs = get_peft_model(plain_network(tiny_model()), config).eval()
    shaken((p for p in theirs.parameters() if p.requires_grad), size=0.05)
    theirs.save_pretrained(str(tmp_path))
    model = tiny_model()
    method = peft.Method.load(model, tmp_path)
    assert {path.rpartition(".")[2] for path in method.deltas(model)} == {"q_proj", "down_proj"}
    close(logits(model), theirs(TOKENS_T[None]).logits[0])


def test_the_start_follows_the_seed_and_leaves_chance_alone(tiny_model: Make) -> None:
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    (a, one), (b, two) = tuned(tiny_model, "loha"), tuned(tiny_model, "loha")
    assert torch.equal(torch.rand(1), wanted)
    assert all(torch.equal(t, two.state(b)[name]) for name, t in one.state(a).items())


def test_two_tuners_share_the_slots(tiny_model: Make) -> None:
    model, loha = tuned(tiny_model, "loha")
    shaken(p for group in loha.groups(model) for _, p in group.parameters)
    alone = logits(model)
    vera = peft.Method(peft.Options(kind="vera"))
    vera.attach(model, name="second")
    with loha.active(model, True):
        assert torch.equal(logits(model), alone)
    with pytest.raises(ModelError, match="hosts another adapter besides"):
        vera.merge(model)


def test_it_stands_in_another_network_over_the_same_weights(tiny_model: Make) -> None:
    """As serving hosts it: loaded into a twin, hosted in the network that answers."""
    (model, method), other = tuned(tiny_model, "loha"), tiny_model()
    shaken(p for group in method.groups(model) for _, p in group.parameters)
    wanted = logits(model)
    for path, delta in method.deltas(model).items():
        slot.place(other.network, path).host("guest", delta)
    for linear in model.linears().values():
        linear.weight.data.zero_()
    slot.activate(other.network, "guest")
    torch.testing.assert_close(logits(other), wanted)


def test_peft_colon_kind_is_the_short_form() -> None:
    part = Spec.parse({"method": {"name": "peft:vera", "settings": {"r": 8}}}).method
    assert part.name == "peft"
    assert part.options == {"kind": "vera", "settings": {"r": 8}}


@pytest.mark.parametrize(
    ("kind", "said"), [("adalora", "take method lora with ranks"), ("prefix_tuning", "take method prefix"), ("lohaa", "Did you mean loha")]
)
def test_what_is_not_offered_names_what_to_take(kind: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        peft.Options(kind=kind)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"rr": 4}, "has no setting 'rr'"), ({"target_modules": 3}, "has no setting 'target_modules'"), ({"r": -1}, "PEFT does not take")],
)
def test_settings_peft_does_not_take_are_refused(settings: dict[str, Any], said: str, tiny_model: Make) -> None:
    model = tiny_model()
    before = logits(model)
    with pytest.raises(SpecError, match=said):
        peft.Method(peft.Options(kind="loha", settings=settings)).attach(model)
    assert torch.equal(logits(model), before), "and the network is as it was"


def test_without_the_library_it_says_what_to_install(tiny_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingPart, match=r"pip install 'luthier\[peft\]'"):
        peft.Method(peft.Options(kind="loha")).attach(tiny_model())


def test_an_adapter_of_another_base_is_refused(tiny_model: Make, tmp_path: Path) -> None:
    model, method = tuned(tiny_model, "loha")
    method.save(model, tmp_path / "adapter")
    small = tiny_model(num_hidden_layers=1)
    with pytest.raises(ModelError, match="is not part of peft:loha for this model"):
        peft.Method.load(small, tmp_path / "adapter")
    assert not hasattr(small.network, "peft_config")
