"""Answers follow their grammar whatever the model would rather say: random scores write valid JSON."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from luthier.core.errors import SpecError
from luthier.data.render import Renderer
from luthier.inference.constrain import Constrainer, Following
from luthier.models.find import find

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "stop_it"}},
]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer.from_folder(find("luthier-mini"))


@pytest.fixture(scope="module")
def constrainer(renderer: Renderer) -> Constrainer:
    return Constrainer(renderer, 6144 + 10)


def babble(following: Following, renderer: Renderer, seed: int) -> str:
    """Any allowed token after the other; short ones are likelier, so that strings end."""
    source, tokens = random.Random(seed), list[int]()
    for _ in range(400):
        allowed = following.allowed().nonzero().flatten().tolist()
        assert max(allowed) < renderer.vocab_size
        token = min(source.sample(allowed, min(4, len(allowed))), key=lambda t: len(renderer.tokenizer.text_of(t)))
        if token in renderer.end_tokens:
            break
        tokens.append(token)
        if following.take(token):
            break
    else:
        pytest.skip("this seed never ends a string")
    return renderer.decode(tokens)


@pytest.mark.parametrize("seed", range(5))
def test_any_answer_follows_the_schema(constrainer: Constrainer, renderer: Renderer, seed: int) -> None:
    value = json.loads(babble(constrainer.schema(SCHEMA), renderer, seed))
    assert value["city"] in ("Paris", "Rome") and 1 <= value["days"] <= 9 and set(value) <= {"city", "days", "tags"}


def test_a_copy_stands_at_the_same_place_and_goes_its_own_way(constrainer: Constrainer, renderer: Renderer) -> None:
    first = constrainer.schema(SCHEMA)
    again = [first.again() for _ in range(3)]
    assert len({babble(following, renderer, seed) for seed, following in enumerate(again)}) > 1
    assert json.loads(babble(first, renderer, 9))


def test_json_object_is_an_object(constrainer: Constrainer, renderer: Renderer) -> None:
    allowed = constrainer.schema().allowed().nonzero().flatten().tolist()
    assert allowed and all(renderer.decode([token]).lstrip(" \n\t\r")[:1] in ("", "{") for token in allowed)
    assert any("{" in renderer.decode([token]) for token in allowed)


@pytest.mark.parametrize(
    "parts",
    [('{"name": "', '", "arguments": ', "}"), ("<|im_start|>call\n", " with ", "\n<|im_end|>")],
)
@pytest.mark.parametrize("seed", range(3))
def test_a_forced_call_is_one_of_the_tools(constrainer: Constrainer, renderer: Renderer, parts: tuple[str, str, str], seed: int) -> None:
    tools: list[Any] = TOOLS[:1] if seed else TOOLS
    text = babble(constrainer.calls(parts, tools), renderer, seed)
    name, _, arguments = text.removeprefix(parts[0]).partition(parts[1])
    assert text.startswith(parts[0]) and name in ("weather", "stop_it")
    json.loads(arguments.removesuffix(parts[2]).removesuffix("\n"))


def test_an_impossible_schema_is_refused(constrainer: Constrainer) -> None:
    with pytest.raises(SpecError, match=r"response_format: The schema cannot be followed: .*Use the parts of JSON Schema") as caught:
        constrainer.schema({"type": "no such type"})
    assert caught.value.code == "bad_schema"
