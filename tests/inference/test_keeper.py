"""What is kept between calls changes no answer; it is bounded, and belongs to one adapter."""

from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.inference import prefill
from luthier.inference.chat import Conversation, Settings
from luthier.inference.generate import generate
from luthier.inference.keeper import Keeper
from luthier.inference.reader import Reader
from luthier.inference.sides import Sides
from luthier.methods.lora import Method, Options
from luthier.models.load import fresh, load
from luthier.models.model import Model

from .test_generate import STOP, prompts

HELD = torch.arange(2 * 2 * 1 * 10 * 3, dtype=torch.float32).view(2, 2, 1, 10, 3)
"""Keys and values of ten tokens: two layers, one head of width 3."""
BYTES_A_TOKEN = 2 * 2 * 1 * 3 * 4


def put(keeper: Keeper, tokens: list[int], owner: Any = ("network", None)) -> None:
    keeper.put(owner, tokens, lambda start: HELD[..., start : len(tokens), :])


def found(keeper: Keeper, tokens: list[int], owner: Any = ("network", None)) -> int:
    held = keeper.find(owner, tokens)
    if held is None:
        return 0
    torch.testing.assert_close(held, HELD[..., : held.shape[3], :])
    return int(held.shape[3])


def test_the_longest_known_beginning_is_found() -> None:
    keeper = Keeper()
    put(keeper, [1, 2, 3, 4, 5])
    put(keeper, [1, 2, 3, 7, 8, 9])
    put(keeper, [1, 2])
    put(keeper, [1, 2, 3, 4, 5, 6])
    assert found(keeper, [1, 2, 3, 7, 8, 1]) == 5
    assert found(keeper, [1, 2, 3, 4, 5, 6, 7, 8]) == 6
    assert found(keeper, [1, 9]) == 1
    assert found(keeper, [2]) == 0
    assert found(keeper, [1, 2], owner=("network", "desk")) == 0
    assert keeper.bytes == (6 + 3) * BYTES_A_TOKEN


def test_what_was_not_used_for_longest_goes_first() -> None:
    keeper = Keeper(most_bytes=8 * BYTES_A_TOKEN)
    put(keeper, [1, 2, 3, 4])
    put(keeper, [1, 2, 5, 6])
    assert found(keeper, [1, 2, 3, 4]) == 4
    put(keeper, [7, 8, 9])
    assert found(keeper, [1, 2, 5, 6]) == 2  # its own two tokens made room
    assert found(keeper, [1, 2, 3, 4]) == 4
    assert found(keeper, [7, 8, 9]) == 3
    assert keeper.bytes == 7 * BYTES_A_TOKEN
    put(keeper, list(range(20, 29)))  # larger than the whole keeper
    assert keeper.bytes <= keeper.most_bytes


def test_answers_from_known_beginnings_equal_those_without(network: Model) -> None:
    settings: dict[str, Any] = {"max_tokens": 10, "stop": STOP}
    plain = generate(network, prompts(), **settings)
    keeper = Keeper()
    some = generate(network, prompts()[3:9], keeper=keeper, **settings)
    assert [g.tokens for g in some] == [g.tokens for g in plain[3:9]]
    for _ in range(2):  # the first knows some beginnings, the second all; prompts that are the beginning of others are among them
        again = generate(network, prompts(), keeper=keeper, **settings)
        assert [g.tokens for g in again] == [g.tokens for g in plain]
    small = Keeper(most_bytes=20_000)
    assert [g.tokens for g in generate(network, prompts(), keeper=small, budget=300, **settings)] == [g.tokens for g in plain]
    assert small.bytes <= 20_000


def test_a_sliding_window_sees_known_beginnings(llama: Model) -> None:
    config = {**llama.config.to_diff_dict(), "model_type": "mistral", "sliding_window": 16}
    mistral = fresh(config, renderer=llama.renderer, seed=2, dtype="float32")
    keeper = Keeper()
    wanted = [g.tokens for g in generate(mistral, prompts()[:4], max_tokens=8)]
    assert [g.tokens for g in generate(mistral, prompts()[:2], max_tokens=8, keeper=keeper)] == wanted[:2]
    assert [g.tokens for g in generate(mistral, prompts()[:4], max_tokens=8, keeper=keeper)] == wanted


@pytest.fixture
def tuned(shared: Path) -> Sides:
    model = load(str(shared / "models" / "stories260k"), dtype="float32")
    method = Method(Options(rank=4))
    method.attach(model, seed=0)
    for number, delta in enumerate(method.deltas(model).values()):
        torch.nn.init.normal_(delta.B, std=0.05, generator=torch.Generator().manual_seed(number))
    return Sides(model, method)


def talk(sides: Sides, keeper: Keeper | None) -> list[str]:
    """A conversation with both sides; without a keeper every turn begins with an empty one."""
    conversation = Conversation(sides, Settings(max_tokens=20), "You tell stories to a child.", keeper=keeper or Keeper())
    said = []
    for question in ("Who is Tom?", "And Lily?", "What did they do then?"):
        conversation.keeper = keeper or Keeper()
        said += ["".join(conversation.ask(question)), "".join(conversation.base())]
    return said


def test_a_conversation_reads_only_what_is_new(tuned: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    without = talk(tuned, None)
    read: list[int] = []
    original = prefill.Prefill.read

    def counted(self: prefill.Prefill, reader: Reader) -> torch.Tensor:
        read.append(len(self.onward.new_N))
        return original(self, reader)

    monkeypatch.setattr(prefill.Prefill, "read", counted)
    assert talk(tuned, Keeper()) == without
    turns, base = read[::2], read[1::2]
    assert turns[0] > 30
    assert max(turns[1:]) < turns[0]  # the new question and the end of the last answer; not the system prompt, not the turns
    assert base[0] == turns[0]  # the base has read nothing of it: its keys and values are its own
