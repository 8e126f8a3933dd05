"""The verbs that tell facts: doctor, methods, models. One JSON object on standard output, exit codes, and words for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.cli.main import dispatch
from luthier.core.errors import NotFound, SpecError
from luthier.jobs.specs import METHODS
from luthier.models.load import save


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_doctor_finds_a_place_to_work_and_makes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert dispatch(["doctor", "--json"]) == 0
    content = told(capsys)
    assert content["ok"]
    assert content["machine"]["cores"] >= 1
    assert content["machine"]["versions"]["torch"]
    assert {"processor", "bfloat16", "memory", "libraries", "home", "disk"} <= {f["what"] for f in content["findings"]}
    assert all(f["remedy"] for f in content["findings"] if f["verdict"] != "good"), "each lack comes with what to do"
    assert not (tmp_path / "home").exists()


def test_doctor_says_what_to_do_about_a_folder_that_is_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "file"))
    assert dispatch(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "BAD   home" in out
    assert "Set LUTHIER_HOME to a folder of yours" in out


@pytest.mark.parametrize(("kind", "missing"), [("decoder", {"bitfit", "peft"}), ("encoder", {"peft", "prefix", "prompt"})])
def test_methods_are_tried_on_a_base(
    kind: str, missing: set[str], tiny_model: Any, tiny_encoder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tiny_model(max_position_embeddings=256) if kind == "decoder" else tiny_encoder(), tmp_path / "base")
    assert dispatch(["methods", "--base", str(tmp_path / "base"), "--json"]) == 0
    found = {cost["method"]: cost for cost in told(capsys)["costs"]}
    assert set(METHODS.names()) - found.keys() == missing
    assert found["full"]["share"] >= 1
    assert all(cost["tokens_per_second"] > 0 and cost["peak_bytes"] > 2**20 and cost["moved"] > 0 for cost in found.values())
    assert found["lora"]["moved"] < found["full"]["moved"]


def test_methods_tell_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["methods", "lora", "--json"]) == 0
    (lora,) = told(capsys)["methods"]
    assert {s["name"]: s["default"] for s in lora["settings"]}["rank"] == 16
    assert all(s["help"] for s in lora["settings"])
    with pytest.raises(SpecError, match=r"Did you mean lora\?"):
        dispatch(["methods", "lorra"])


def test_models_list_the_catalog_and_never_fetch_by_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["models", "--json"]) == 0
    assert {"luthier-mini", "qwen3-0.6b"} <= {entry["name"] for entry in told(capsys)["catalog"]}
    assert dispatch(["models", "smollm3-3b", "--json"]) == 0
    assert told(capsys)["parameters"] == 3_075_098_624
    with pytest.raises(NotFound, match=r"is not on this machine. Fetch it once with: luthier models no-one/nothing --download"):
        dispatch(["models", "no-one/nothing"])
    with pytest.raises(SpecError, match="say which: luthier models NAME --download"):
        dispatch(["models", "--download"])
