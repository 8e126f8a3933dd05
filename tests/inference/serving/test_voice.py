"""Text from tokens as they come: whole characters, no part of a stop text, and nothing lost."""

import random

import pytest

from luthier.data.render import Renderer
from luthier.inference.serving.ask import Delta, TokenInfo
from luthier.inference.serving.pieces import Pieces
from luthier.inference.serving.voice import Voice
from luthier.models.find import find

TEXTS = ["Hello, world!", "Käse für 3 €, bitte 🙂.\nUser: no", "  two  spaces\n\n", "日本語テキスト", "aaab aab"]


@pytest.fixture(scope="module", params=["luthier-mini", "stories260k"])
def mine(request: pytest.FixtureRequest) -> Renderer:
    folder = find("luthier-mini") if request.param == "luthier-mini" else request.getfixturevalue("shared") / "models" / request.param
    return Renderer.from_folder(folder)


def speak(voice: Voice, pieces: list[bytes]) -> list[Delta]:
    said = []
    for token, piece in enumerate(pieces):
        delta, stopped = voice.take(TokenInfo(token, piece))
        if stopped:
            return [*said, voice.stopped(delta)]
        said.append(delta)
    return [*said, voice.end("length")]


def text(said: list[Delta]) -> str:
    return "".join(delta.text for delta in said)


@pytest.mark.parametrize("words", TEXTS)
def test_bytes_of_tokens_are_the_tokenizers_own_text(mine: Renderer, words: str) -> None:
    pieces, tokens = Pieces(mine.tokenizer), mine.encode(words)
    assert b"".join(map(pieces.of, tokens)).decode() == mine.decode(tokens)


@pytest.mark.parametrize("words", TEXTS)
def test_every_delta_is_whole_characters(words: str) -> None:
    for seed in range(20):
        cuts = sorted(random.Random(seed).sample(range(1, len(words.encode())), min(6, len(words) - 1)))
        pieces = [words.encode()[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        said = speak(Voice(0, []), pieces)
        assert text(said) == words
        assert "\ufffd" not in text(said)


def test_bytes_that_are_no_character_become_one_sign() -> None:
    assert text(speak(Voice(0, []), [b"a\xff", b"b", "é".encode()[:1]])) == "a\ufffdb\ufffd"


@pytest.mark.parametrize("stop", [["\nUser:"], ["er:", "zzz"], ["€", "User"], ["Kä"], ["no stop of these"]])
def test_a_stop_text_is_found_across_tokens_and_no_part_of_it_is_said(stop: list[str]) -> None:
    whole = TEXTS[1]
    at = min((whole.find(s) for s in stop if s in whole), default=len(whole))
    for size in range(1, 9):
        pieces = [whole.encode()[i : i + size] for i in range(0, len(whole.encode()), size)]
        said = speak(Voice(0, stop), pieces)
        assert text(said) == whole[:at]
        assert said[-1].finish == ("stop" if at < len(whole) else "length")


def test_what_only_begins_like_a_stop_text_is_said_later() -> None:
    voice = Voice(0, ["aab"])
    assert [voice.take(TokenInfo(0, piece))[0].text for piece in (b"a", b"a", b"a")] == ["", "", "a"]
    assert voice.end("stop").text == "aa"


def test_tokens_come_with_their_text() -> None:
    voice = Voice(0, ["STOP"], shown=True)
    pieces = [b"one", b" S", b"T", b" two", b"\xc3", b"\xa4", b" STO", b"P!"]
    said = speak(voice, pieces)
    assert [[info.token for info in delta.tokens] for delta in said] == [[0], [], [], [1, 2, 3], [4], [5], [], [6]]
    assert text(said) == "one ST twoä "


def test_the_first_words_space_belongs_to_the_tokenizer() -> None:
    assert text(speak(Voice(0, [], strips=True), [b" Once", b" upon"])) == "Once upon"
    assert text(speak(Voice(0, []), [b" Once", b" upon"])) == " Once upon"
