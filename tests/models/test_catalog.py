"""The catalog agrees with itself and with what is bundled."""

from __future__ import annotations

import json

from luthier.core.files import sha256
from luthier.models.catalog import BUNDLED, catalog


def test_entries_are_plausible() -> None:
    entries = list(catalog().values())
    assert entries[0].name == "luthier-mini"
    assert entries[0].bundled
    assert len(entries) >= 16
    for entry in entries:
        blocks = entry.parameters - entry.vocabulary * entry.width
        # a block is 4 D^2 (attention) + 8 to 12 D^2 (feed forward) in most; grouped heads make it less, wide feed-forwards more
        assert 4 < blocks / (entry.blocks * entry.width**2) < 24, entry.name
        assert entry.full_bytes > 3 * entry.lora_bytes or entry.parameters < 1e9
        assert entry.lora_bytes > 2 * entry.parameters


def test_the_bundled_base_is_described_as_it_is() -> None:
    folder = BUNDLED / "luthier-mini"
    config = json.loads((folder / "config.json").read_text())
    entry = catalog()["luthier-mini"]
    assert (entry.width, entry.blocks, entry.vocabulary, entry.context) == (
        config["hidden_size"],
        config["num_hidden_layers"],
        config["vocab_size"],
        config["max_position_embeddings"],
    )
    weights = folder / "model.safetensors"
    if weights.exists():
        assert weights.stat().st_size <= 20e6
        assert sha256(weights)
