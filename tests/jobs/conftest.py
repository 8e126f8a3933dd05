"""A real, tiny base and a few real-looking rows: the whole job in a second or two."""

import json
import random
from pathlib import Path

import pytest

LABELS = {"parcel": "Where is my parcel?", "refund": "I want my money back.", "broken": "It arrived broken.", "hours": "When do you open?"}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file of forty chat rows."""
    return write_rows(tmp_path / "tickets.jsonl")


def write_rows(file: Path) -> Path:
    """Forty chat rows of four labels, always the same."""
    dice = random.Random(0)
    lines = []
    for i in range(40):
        label, words = dice.choice(list(LABELS.items()))
        turns = [("system", "Answer with a label."), ("user", f"{words} Order {dice.randint(1000, 9999)}, {i}."), ("assistant", label)]
        lines.append(json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}))
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs and caches of a test go to its own folder."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


SHORT = (
    "train.max_steps=6",
    "train.rows_per_step=4",
    "train.save_every=2",
    "train.validate_every=3",
    "evaluate.rows=4",
    "evaluate.max_tokens=4",
)
"""A run of six steps."""
