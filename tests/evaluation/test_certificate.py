"""Certificates hold where nothing changed, and name what changed where something did."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from luthier.core.errors import ResultError, StorageError
from luthier.core.example import Example, Source
from luthier.evaluation.certificate import TOKENS, replay, write
from luthier.models.load import load_folder, reload, save

from .conftest import Tuned


@pytest.fixture(scope="module")
def folder(tuned: Tuned, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    text = Example(Source("t.txt", 1), form="text", text="Once upon a time there was a dog who liked to run in the park.")
    write(tuned.model, tuned.method, [*tuned.held_out[:8], text], folder)
    return folder


def test_nothing_changed_holds_within_rounding(tuned: Tuned, folder: Path) -> None:
    found = replay(tuned.model, tuned.method, folder)
    assert found.probes == 9
    assert 9 < found.tokens <= 9 * TOKENS
    assert found.largest < 1e-4
    assert found.first_choices == 1.0


def test_the_certificate_can_tell_tuned_from_base(folder: Path) -> None:
    content = json.loads((folder / "certificate.json").read_text())
    assert content["told_apart"] is True
    assert content["dtype"] == "float32"
    assert all(len(p["base"]["tokens"]) == len(p["base"]["logprobs"]) for p in content["probes"])


def test_an_ignored_adapter_is_noticed(tuned: Tuned, folder: Path) -> None:
    base = reload(tuned.model)
    with pytest.raises(
        ResultError, match=r"does not answer as certified\. Probe 1, answer token 1 \('.+'\) has log-probability -\d"
    ) as caught:
        replay(base, None, folder)
    assert "largest distance" in str(caught.value)
    assert caught.value.where == "days.jsonl row 1001"
    assert caught.value.code == "certificate"


def test_a_slightly_changed_weight_is_noticed(tuned: Tuned, folder: Path) -> None:
    weight = tuned.model.head().weight
    kept = weight.clone()
    try:
        with torch.no_grad():
            weight.mul_(1.01)
        with pytest.raises(ResultError, match=r"mean 0\.\d+ \(allowed 0\.0001\)"):
            replay(tuned.model, tuned.method, folder)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_weights_that_are_no_numbers_do_not_pass(tuned: Tuned, folder: Path) -> None:
    weight = tuned.model.head().weight
    kept = weight.clone()
    try:
        with torch.no_grad():
            weight.fill_(float("nan"))
        with pytest.raises(ResultError, match=r"does not answer as certified\. Probe 1, answer token 1 .* has log-probability nan"):
            replay(tuned.model, tuned.method, folder)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_another_template_is_named_before_anything_is_scored(tuned: Tuned, folder: Path, tmp_path: Path) -> None:
    drifted = reload(tuned.model)
    save(drifted, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(
        "{% for m in messages %}Q: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
    )
    other = replace(tuned.model, renderer=load_folder(tmp_path / "model", dtype="float32").renderer)
    with pytest.raises(
        ResultError, match=r"Probe 1 renders to other tokens than at tuning: token \d+ is \d+ \('.*'\), it was \d+"
    ) as caught:
        replay(other, tuned.method, folder)
    assert caught.value.code == "template_drift"


def test_bfloat16_is_held_to_its_own_tolerance(tuned: Tuned, folder: Path) -> None:
    coarse = reload(tuned.model, dtype=torch.bfloat16)
    tuned.method.save(tuned.model, folder / "adapter")
    method = type(tuned.method).load(coarse, folder / "adapter")
    found = replay(coarse, method, folder)
    assert 1e-3 < found.largest < 0.5


@pytest.mark.parametrize(("content", "words"), [("{", "cannot be read"), ('{"version": 99}', "version 99, this Luthier reads 1")])
def test_a_damaged_certificate_is_said(tuned: Tuned, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "certificate.json").write_text(content)
    with pytest.raises(StorageError, match=words):
        replay(tuned.model, tuned.method, tmp_path)
