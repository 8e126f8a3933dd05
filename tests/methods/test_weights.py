"""Weights that transformers keeps on disk under other names, or in other pieces, than the network has them come back all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.data.render import Renderer
from luthier.methods import freeze, full
from luthier.models.load import fresh

VIT = {
    "model_type": "vit",
    "architectures": ["ViTModel"],
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


@pytest.mark.parametrize("method", [full.Method, freeze.Method], ids=["full", "freeze"])
@pytest.mark.parametrize("kind", ["mixtral", "vit"])
def test_what_full_tuning_saved_comes_back(kind: str, method: Any, tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(VIT))
    size = {"height": 8, "width": 8}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ViTImageProcessor", "size": size}))

    def made() -> Any:
        if kind == "mixtral":
            return tiny_model(model_type="mixtral")
        return fresh(VIT, renderer=Renderer.from_folder(tmp_path), seed=0, dtype="float32", name="vit")

    model, again = made(), made()
    trained = method()
    trained.attach(model)
    for p in model.network.parameters():
        p.data.add_(0.25)
    trained.save(model, tmp_path / "model")
    method.load(again, tmp_path / "model")
    for name, p in model.network.named_parameters():
        assert torch.equal(again.network.get_parameter(name), p), name
