"""Streaming: pieces join to the whole answer, characters are never torn."""

from collections.abc import Iterable

import pytest

from luthier.core.errors import DataError
from luthier.inference.generate import generate
from luthier.inference.stream import stream, text
from luthier.models.model import Model


def from_bytes(tokens: Iterable[int]) -> str:
    """A decoder of one byte per token."""
    return bytes(tokens).decode("utf-8", errors="replace")


@pytest.mark.parametrize("words", ["plain", "été", "日本語 and 🙂🙂", "", "ends in é"])
def test_characters_come_whole(words: str) -> None:
    pieces = list(text(words.encode(), from_bytes))
    assert "".join(pieces) == words
    assert all("\ufffd" not in piece for piece in pieces)
    assert len(pieces) == len(words)


def test_bytes_that_are_no_character_come_at_last() -> None:
    assert "".join(text(b"ab\xff\xfecd", from_bytes)) == from_bytes(b"ab\xff\xfecd")
    assert "".join(text("日".encode()[:2], from_bytes)) == from_bytes("日".encode()[:2])


def test_pieces_join_to_the_generated_answer(stories: Model) -> None:
    prompt = [1, *stories.renderer.encode("Lily and Tom went to the")]
    (whole,) = generate(stories, [prompt], max_tokens=60, temperature=0.9, top_p=0.95, seed=5, stop=frozenset({2}))
    pieces = list(stream(stories, prompt, max_tokens=60, temperature=0.9, top_p=0.95, seed=5, stop=frozenset({2})))
    assert "".join(pieces) == stories.renderer.decode(whole.answer)
    assert len(pieces) > 20


def test_bad_prompts_are_refused_before_the_first_piece(stories: Model) -> None:
    with pytest.raises(DataError, match="the prompt has no tokens"):
        stream(stories, [], max_tokens=4)
