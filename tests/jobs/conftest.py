"""A real, tiny base and a few real-looking rows: the whole job in a second or two."""

import json
import random
from pathlib import Path

import pytest

from luthier.models.catalog import BUNDLED

LABELS = {"parcel": "Where is my parcel?", "refund": "I want my money back.", "broken": "It arrived broken.", "hours": "When do you open?"}


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-block Llama with the bundled tokenizer and template, saved in the Hugging Face layout."""
    from luthier.data.render import Renderer
    from luthier.models.load import fresh, save

    config = json.loads((BUNDLED / "luthier-mini" / "config.json").read_text())
    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(fresh({**config, **small}, renderer=Renderer.from_folder(BUNDLED / "luthier-mini"), seed=1, dtype="float32"), folder)
    return folder


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
