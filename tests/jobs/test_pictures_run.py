"""Whole runs on pictures: texts and pictures that find each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from luthier.core.errors import DataError
from luthier.core.registry import Folder
from luthier.jobs.run import load, tune
from tiny_families import saved

SETTINGS = ["train.epochs=1", "model.dtype=float32", "evaluate.rows=4", "data.valid=0.3"]

pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, half of them dark, half bright."""
    folder = tmp_path_factory.mktemp("shades")
    for n in range(20):
        points = np.random.default_rng(n).integers(0, 100, (16, 16, 3)) + 150 * (n % 2)
        Image.fromarray(points.astype(np.uint8)).save(folder / f"{n}.png")
    return folder


@pytest.fixture(scope="module")
def llava(shades: Path) -> Path:
    return saved("llava", shades)


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return folder / name


def test_pictures_and_texts_find_each_other(shades: Path, llava: Path) -> None:
    """A picture among words before its text, and a text before the picture that belongs to it."""
    rows = [
        {
            "messages": [{"role": "user", "content": f"<image>Who, {n}?"}, {"role": "assistant", "content": f"Number {n}."}]
            if n % 3
            else [{"role": "user", "content": f"Find {n}."}, {"role": "assistant", "content": "<image>"}],
            "images": [f"{n}.png"],
        }
        for n in range(20)
    ]
    run = tune(written(shades, "pairs.jsonl", rows), model=str(llava), objective="embed", settings=SETTINGS, out=shades / "embedded")
    assert run.summary["metric"] == "found_first" and "texts found first" in run.verdict
    assert run.answers_to == "", "it says nothing, it is near or far"


def test_a_classifier_of_pictures_is_asked_by_hand(shades: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"image": f"{n}.png", "label": "bright" if n % 2 else "dark"} for n in range(20)]
    settings = [*SETTINGS, "train.epochs=6", "train.rows_per_step=4", "train.learning_rate=1e-2"]
    base, file = saved("vit", shades), written(shades, "labels.jsonl", rows)
    run = tune(file, model=str(base), objective="predict", method="full", settings=settings, out=shades / "classified")
    monkeypatch.chdir(shades)
    asked = load(run.folder)
    dark, bright = asked.predict([{"image": "0.png"}, {"messages": [{"role": "user", "content": "<image>"}], "images": ["1.png"]}])
    assert (dark.said, bright.said) == ("dark", "bright")
    assert sum(bright.sure.values()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(DataError, match=r"predict row 1: .*words 'dark or bright\?'.*Write rows like") as caught:
        asked.predict(["dark or bright?"])
    assert caught.value.code == "one_picture"
    with pytest.raises(DataError, match=r"predict row 2 field image: There is no file 'none.png'"):
        asked.predict([{"image": "0.png"}, {"image": "none.png"}])


def test_a_head_on_words_and_pictures_is_asked_by_hand(shades: Path, llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"image": f"{n}.png", "text": "Which?", "label": "bright" if n % 2 else "dark"} for n in range(20)]
    run = tune(
        written(shades, "asked.jsonl", rows), model=str(llava), objective="predict", method="head", settings=SETTINGS, out=shades / "head"
    )
    monkeypatch.chdir(shades)
    asked = load(run.folder)
    short, long = asked.predict(
        [
            {"image": "1.png", "text": "Which?"},
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "1.png"}}, {"type": "text", "text": "Which?"}]}
                ]
            },
        ]
    )
    assert short.said in ("bright", "dark") and short.sure == pytest.approx(long.sure, abs=1e-6)
    other, blind = asked.predict([{"image": "0.png", "text": "Which?"}, "Which?"])
    assert len({round(each.sure["dark"], 7) for each in (short, other, blind)}) == 3, "what is seen counts"


SHOWN: dict[str, Any] = {"prompt": "<image>Which?"}
ROWS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": "dark"}]},
    "pairs": {**SHOWN, "chosen": "dark", "rejected": "bright"},
    "judged": {**SHOWN, "completion": "dark", "label": True},
}
KINDS = {"dpo": "pairs", "orpo": "pairs", "simpo": "pairs", "reward": "pairs", "kto": "judged"}
SAID: dict[str, dict[str, Any]] = {"grpo": {"grader": {"type": "label", "labels": ["dark", "bright"]}, "samples": 2, "max_tokens": 3}}


@pytest.mark.parametrize("name", [name for name in Folder("luthier.objectives", "objective").names() if name != "embed"])
def test_every_objective_learns_from_rows_with_pictures(name: str, shades: Path, llava: Path) -> None:
    """One step of each; the gradient reaches the projector, so what is seen is learned from."""
    kind = KINDS.get(name, "chat")
    rows = [dict(json.loads(json.dumps(ROWS[kind])), images=[f"{n}.png"]) for n in range(12)]
    for n, row in enumerate(rows):
        if kind == "chat" and n % 2:
            row["messages"][1]["content"] = "bright"
        if kind == "judged":
            row["label"] = n % 2 == 0
    objective = {"name": name, **SAID.get(name, {})} | ({"teacher": str(llava)} if name == "distill" else {})
    method = "lora" if name == "grpo" else {"name": "freeze", "frozen": [], "moving": ["model.multi_modal_projector.*"]}
    settings = ["train.max_steps=1", "train.rows_per_step=4", "model.dtype=float32", "evaluate.rows=2", "data.valid=0.3"]
    run = tune(written(shades, f"{name}.jsonl", rows), model=str(llava), objective=objective, method=method, settings=settings)
    assert run.verdict
    if name != "grpo":  # its answers may all be graded alike
        before, after = (load_file(folder / "model.safetensors") for folder in (llava, run.files.weights))
        (moved,) = {name.rpartition("multi_modal_projector")[1] for name, weight in after.items() if not torch.equal(weight, before[name])}
        assert moved == "multi_modal_projector"
