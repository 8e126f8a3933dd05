"""Full tuning: what freezing means, and the tied embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from luthier.core.errors import SpecError
from luthier.methods.full import Method, Options

Make = Callable[..., Any]


def moving(model: Any, freeze: Any) -> set[str]:
    Method(Options(freeze=freeze)).attach(model)
    return {name for name, p in model.network.named_parameters() if p.requires_grad}


def test_everything_moves_and_vectors_do_not_decay(tiny_model: Make) -> None:
    model = tiny_model()
    assert moving(model, 0) == {name for name, _ in model.network.named_parameters()}
    matrices, vectors = Method().groups(model)
    assert (matrices.decay, vectors.decay) == (True, False)
    assert {p.ndim for _, p in matrices.parameters} == {2}
    assert {p.ndim for _, p in vectors.parameters} == {1}


def test_frozen_blocks_take_the_embedding_with_them(tiny_model: Make) -> None:
    names = moving(tiny_model(), 1)
    assert not [n for n in names if n.startswith(("model.layers.0.", "model.embed_tokens"))]
    assert {n.split(".")[2] for n in names if n.startswith("model.layers.")} == {"1"}
    assert "lm_head.weight" in names


def test_a_tied_embedding_is_one_weight_with_two_names(tiny_model: Make) -> None:
    for freeze in (["lm_head.weight"], ["model.embed_tokens.weight"], 1):
        assert "model.embed_tokens.weight" not in moving(tiny_model(tie_word_embeddings=True), freeze)
    assert "model.embed_tokens.weight" in moving(tiny_model(tie_word_embeddings=True), ["*.mlp.*"])


@pytest.mark.parametrize(
    ("freeze", "text"),
    [
        (3, "the model has 2 blocks"),
        (-1, "the model has 2 blocks"),
        (["*.moe.*"], r"no weight is called '\*.moe.\*'"),
        (["*"], "leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen(freeze: Any, text: str, tiny_model: Make) -> None:
    with pytest.raises(SpecError, match=text):
        moving(tiny_model(), freeze)
