"""Freezing: what stays, what moves, and the tied embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from luthier.core.errors import SpecError
from luthier.methods.freeze import Method, Options

Make = Callable[..., Any]


def moving(model: Any, frozen: Any, **more: Any) -> set[str]:
    Method(Options(frozen=frozen, **more)).attach(model)
    return {name for name, p in model.network.named_parameters() if p.requires_grad}


def test_everything_moves_and_vectors_do_not_decay(tiny_model: Make) -> None:
    model = tiny_model()
    assert moving(model, 0) == {name for name, _ in model.network.named_parameters()}
    matrices, vectors = Method(Options(frozen=0)).groups(model)
    assert (matrices.decay, vectors.decay) == (True, False)
    assert {p.ndim for _, p in matrices.parameters} == {2}
    assert {p.ndim for _, p in vectors.parameters} == {1}


def test_frozen_blocks_take_the_embedding_with_them(tiny_model: Make) -> None:
    names = moving(tiny_model(), 1)
    assert not [n for n in names if n.startswith(("model.layers.0.", "model.embed_tokens"))]
    assert {n.split(".")[2] for n in names if n.startswith("model.layers.")} == {"1"}
    assert "lm_head.weight" in names


def test_three_quarters_of_the_blocks_stay_where_nothing_is_said(tiny_model: Make) -> None:
    model = tiny_model(num_hidden_layers=4)
    Method().attach(model)
    names = {name for name, p in model.network.named_parameters() if p.requires_grad}
    assert {n.split(".")[2] for n in names if n.startswith("model.layers.")} == {"3"}


def test_only_what_is_named_moves(tiny_model: Make) -> None:
    assert moving(tiny_model(), 0, moving=["*norm*"]) == {n for n, _ in tiny_model().network.named_parameters() if "norm" in n}
    assert moving(tiny_model(), 1, moving=["*up_proj*"]) == {"model.layers.1.mlp.up_proj.weight"}
    with pytest.raises(SpecError, match=r"method.moving: no weight is called '\*.moe.\*'"):
        moving(tiny_model(), 0, moving=["*.moe.*"])


def test_a_tied_embedding_is_one_weight_with_two_names(tiny_model: Make) -> None:
    for frozen in (["lm_head.weight"], ["model.embed_tokens.weight"], 1):
        assert "model.embed_tokens.weight" not in moving(tiny_model(tie_word_embeddings=True), frozen)
    assert "model.embed_tokens.weight" in moving(tiny_model(tie_word_embeddings=True), ["*.mlp.*"])


@pytest.mark.parametrize(
    ("frozen", "text"),
    [
        (3, "the model has 2 blocks"),
        (["*.moe.*"], r"no weight is called '\*.moe.\*'"),
        (["*"], "leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen(frozen: Any, text: str, tiny_model: Make) -> None:
    with pytest.raises(SpecError, match=text):
        moving(tiny_model(), frozen)
