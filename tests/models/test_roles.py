"""Every linear of every decoder has a role, and every block hands on from attention and from the MLP exactly once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from luthier.models.families.decoder import MODEL_TYPES
from luthier.models.roles import role

SHAPES: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": None},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1},
    "gpt_neox": {"num_key_value_heads": 4},
}


@pytest.mark.parametrize("kind", sorted(MODEL_TYPES))
def test_every_linear_has_its_role(kind: str, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model(model_type=kind, **SHAPES.get(kind, {}))
    roles = {path: role(path) for path in model.linears()}
    experts = "moe" in kind or kind == "mixtral"  # they lie in one tensor, which is no linear
    assert not [path for path, found in roles.items() if found is None and not experts]
    for number in range(len(model.blocks())):
        mine = Counter(found for path, found in roles.items() if f".{number}." in path)
        assert mine["attention_out"] == 1
        assert mine["mlp_out"] == 1 or experts
        assert sum("key" in str(found) for found in mine) == sum("value" in str(found) for found in mine) == 1


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("bert.encoder.layer.0.attention.self.query", "query"),
        ("bert.encoder.layer.0.attention.output.dense", "attention_out"),
        ("bert.encoder.layer.0.output.dense", "mlp_out"),
        ("encoder.block.1.layer.0.SelfAttention.v", "value"),
        ("decoder.block.1.layer.1.EncDecAttention.o", "attention_out"),
        ("model.layers.0.self_attn.rotary", None),
    ],
)
def test_the_longest_ending_counts(path: str, wanted: str | None) -> None:
    assert role(path) == wanted
