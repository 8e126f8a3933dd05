"""Small random networks with the real renderer of stories260k."""

from pathlib import Path
from typing import Any

import pytest

from luthier.data.render import Renderer
from luthier.models.load import fresh, load
from luthier.models.model import Model

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # large: near ties between tokens would make greedy answers depend on rounding
}
NETWORKS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "model_type": "llama", "num_attention_heads": 8, "num_key_value_heads": 2},
    "qwen2": {**SMALL, "model_type": "qwen2", "num_attention_heads": 4, "num_key_value_heads": 4, "tie_word_embeddings": True},
}


@pytest.fixture(scope="session")
def renderer(shared: Path) -> Renderer:
    return Renderer.from_folder(shared / "models" / "stories260k")


@pytest.fixture(scope="session", params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest, renderer: Renderer) -> Model:
    return fresh(NETWORKS[request.param], renderer=renderer, seed=1, dtype="float32", name=request.param)


@pytest.fixture(scope="session")
def llama(renderer: Renderer) -> Model:
    return fresh(NETWORKS["llama"], renderer=renderer, seed=1, dtype="float32", name="llama")


@pytest.fixture(scope="session")
def stories(shared: Path) -> Model:
    return load(str(shared / "models" / "stories260k"), dtype="float32")
