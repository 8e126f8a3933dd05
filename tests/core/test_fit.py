"""Parts that do not go together are refused by what they give and want, with the nearest that do."""

from __future__ import annotations

import pytest

from luthier.core.errors import SpecError
from luthier.core.fit import Offer, check, lacking, nearest

BASE = Offer("model", "llama", gives=frozenset({"linears"}))
PLAIN = Offer("model.dtype", "auto")
NF4 = Offer("model.dtype", "nf4", wants=frozenset({"packed"}))
FULL = Offer("method", "full", gives=frozenset({"merge", "whole"}))
LORA = Offer("method", "lora", gives=frozenset({"merge", "packed", "swap"}), wants=frozenset({"linears"}))
PROMPT = Offer("method", "prompt", gives=frozenset({"packed", "swap"}))
BITFIT = Offer("method", "bitfit", gives=frozenset({"merge", "packed"}), wants=frozenset({"biases"}))
OTHERS = {"method": [LORA, FULL, PROMPT, BITFIT], "model.dtype": [PLAIN]}


def test_nothing_is_lacking_where_every_wish_is_granted() -> None:
    assert lacking([BASE, NF4, LORA]) == []
    check([BASE, NF4, LORA], OTHERS)


def test_nobody_grants_its_own_wish() -> None:
    selfish = Offer("method", "selfish", gives=frozenset({"x"}), wants=frozenset({"x"}))
    assert lacking([selfish, BASE]) == [(selfish, "x")]


def test_the_nearest_keep_most_of_what_was_asked_for() -> None:
    assert [str(offer) for offer in nearest([BASE, NF4, FULL], OTHERS)] == ["model.dtype auto", "method lora", "method prompt"]


def test_the_refusal_names_the_wish_and_what_works() -> None:
    with pytest.raises(SpecError) as caught:
        check([BASE, NF4, FULL], OTHERS)
    assert str(caught.value) == (
        "model.dtype nf4 wants a method that works on packed weights, and method full does not. "
        "The nearest that work: model.dtype=auto or method=lora or method=prompt."
    )
    assert caught.value.code == "misfit"
    with pytest.raises(
        SpecError, match=r"method bitfit wants a model that has biases, and model llama does not\. .*method=lora or method=full"
    ):
        check([BASE, PLAIN, BITFIT], OTHERS)


def test_where_no_single_change_helps_it_says_so() -> None:
    odd = Offer("objective", "odd", wants=frozenset({"wings"}))
    with pytest.raises(SpecError, match=r"objective odd wants a part that gives wings, and nothing here does not\. No single change helps"):
        check([BASE, PLAIN, LORA, odd], {})
