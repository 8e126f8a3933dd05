"""Objectives beside `sft` on models that write beside a source: a teacher's thoughts, and grades."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from luthier.core.errors import DataError
from luthier.jobs.run import tune
from tiny_families import saved

LABELS = ("low", "high")
SETTINGS = ["train.max_steps=2", "train.rows_per_step=4", "model.dtype=float32", "evaluate.rows=2", "data.valid=0.3"]
LEARNED: dict[str, dict[str, Any]] = {
    "distill": {"share": 0.5},
    "leash": {"name": "sft", "leash": 0.1},
    "grpo": {"grader": {"type": "text_similarity", "evaluation_metric": "chrf"}, "samples": 3, "max_tokens": 4},
}


@pytest.fixture(scope="module", params=["t5", "whisper"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny base of each family, and rows it takes."""
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    rows: list[dict[str, str]] = []
    for n in range(12):
        with wave.open(str(folder / f"{n}.wav"), "wb") as file:
            file.setframerate(16_000)
            file.setsampwidth(2)
            file.setnchannels(1)
            file.writeframes((20_000 * np.sin(np.arange(6_000) * (0.1 + n % 2))).astype("<i2").tobytes())
        label = LABELS[n % 2]
        rows.append({"prompt": f"say {n}", "completion": label} if kind == "t5" else {"audio": f"{n}.wav", "text": label})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(folder / "home"))
        yield saved(kind, folder)


@pytest.mark.parametrize("name", LEARNED)
def test_other_objectives_learn_beside_a_source(name: str, base: Path) -> None:
    teacher = {"teacher": str(base)} if name == "distill" else {}
    run = tune(base.parent / "rows.jsonl", model=str(base), objective={"name": name, **teacher, **LEARNED[name]}, settings=SETTINGS)
    assert run.verdict
    if name != "grpo":  # answers of random weights may all be graded alike
        moved = [weight for key, weight in load_file(run.files.weights / "adapter_model.safetensors").items() if "lora_B" in key]
        assert any(weight.abs().max() > 0 for weight in moved)


def test_two_answers_to_compare_are_refused(base: Path) -> None:
    rows = [{"prompt": f"say {n}", "chosen": "low", "rejected": "high"} for n in range(12)]
    (base.parent / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="answers to compare are for a model that writes"):
        tune(base.parent / "pairs.jsonl", model=str(base), objective="dpo", settings=SETTINGS)
