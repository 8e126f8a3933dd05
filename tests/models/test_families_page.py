"""docs/families.md: its examples run on tiny models, as a user would type them."""

from __future__ import annotations

import io
import json
import re
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from luthier.jobs.result import Run
from tiny_families import saved

PAGE = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^## (\w+)$|```python\n(.*?)```", PAGE, re.M | re.S)
TINY = {"./vit-base": "vit", "./llava": "llava", "./flan-t5-small": "t5", "./ast": "ast", "./whisper-tiny": "whisper"}
QUICK = 'settings=["train.max_steps=2", "evaluate.rows=2", "model.dtype=float32"]'


def of_sections() -> list[tuple[str, str]]:
    """Each example with the family it stands under."""
    section, found = "", []
    for title, code in EXAMPLES:
        section = title or section
        if code:
            found.append((section, code))
    return found


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files the page speaks of, in the present folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    rows: dict[str, list[object]] = {name: [] for name in ("birds", "conversations", "phrases", "digits", "dictations")}
    for n in range(12):
        drawn = io.BytesIO()
        Image.fromarray(np.random.default_rng(n).integers(0, 256, (14, 18, 3), np.uint8)).save(drawn, "PNG")
        Path(f"{n}.png").write_bytes(drawn.getvalue())
        with wave.open(f"{n}.wav", "wb") as file:
            file.setframerate(16_000)
            file.setsampwidth(2)
            file.setnchannels(1)
            file.writeframes((20_000 * np.sin(np.arange(4_000) * (0.1 + n / 9))).astype("<i2").tobytes())
        label = ["heron", "gull"][n % 2]
        rows["birds"].append({"image": f"{n}.png", "label": label})
        turns = [{"role": "user", "content": "<image>What is this?"}, {"role": "assistant", "content": f"A {label}."}]
        rows["conversations"].append({"messages": turns, "images": [f"{n}.png"]})
        rows["phrases"].append({"prompt": f"say {n}", "completion": label})
        rows["digits"].append({"audio": f"{n}.wav", "label": label})
        rows["dictations"].append({"audio": f"{n}.wav", "text": f"{label} {n}"})
    for name, lines in rows.items():
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_every_family_that_is_no_plain_text_has_its_example() -> None:
    assert [section for section, _ in of_sections()] == ["vision", "vision_language", "encoder_decoder", "audio", "audio_language"]


@pytest.mark.parametrize(("section", "code"), of_sections(), ids=[section for section, _ in of_sections()])
def test_the_examples_run(section: str, code: str, files: Path) -> None:
    (address,) = re.findall(r'model="(.*?)"', code)
    saved(TINY[address], files)
    (files / TINY[address]).rename(files / address)
    said: dict[str, object] = {}
    exec(compile(re.sub(r"(tune\(.*)\)$", rf"\1, {QUICK})", code, flags=re.M), "families.md", "exec"), said)
    run = said["run"]
    assert isinstance(run, Run)
    assert run.files.state()["state"] == "succeeded"
