"""Whole runs on pictures: texts and pictures that find each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from luthier.jobs.run import load, tune
from tiny_families import saved

SETTINGS = ["train.epochs=1", "model.dtype=float32", "evaluate.rows=4", "data.valid=0.3"]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(tmp_path_factory.mktemp("home")))
        yield


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
    assert load(run.folder).model.predictor is None
