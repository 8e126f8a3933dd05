"""Encoding by words gives the ids of the library itself, for every tokenizer at hand and for texts made to break it."""

from __future__ import annotations

import gzip
import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from template_folders import TEMPLATES, published
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

from luthier.core.example import Example
from luthier.core.spec import DataSpec
from luthier.data.read import read
from luthier.data.render import Renderer
from luthier.data.tokenise import tokenise
from luthier.data.tokenizer import MANY, Tokenizer
from luthier.models.catalog import BUNDLED

SPLITS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "behind": r"(?<=a) b|\S+|\s+",
    "pairs of words": r"\p{L}+ \p{L}+|\S+|\s+",
}


REFUSED = {"google-gemma-2-2b-it": "system"}
"""Roles a template refuses."""


@pytest.fixture(scope="module")
def texts(shared: Path) -> list[str]:
    """Chats, documents, the edge cases of llama.cpp's tokenizer tests, and noise out of the letters that matter."""
    found = [
        turn.content
        for name in ("ft_openai_cookbook/toy_chat_fine_tuning.jsonl", "ft_gsm8k/train.jsonl")
        for _, item in zip(range(300), read(shared / "data" / name), strict=False)
        if isinstance(item, Example)
        for turn in item.messages
    ]
    with gzip.open(shared / "corpus" / "python-docs.jsonl.gz", "rt", encoding="utf-8") as lines:
        found += [json.loads(line)["text"][:20_000] for _, line in zip(range(10), lines, strict=False)]
    for file in sorted((shared / "data" / "tok_llamacpp_vocab").glob("*.inp")):
        found += file.read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    dice = random.Random(3)
    letters = [
        "a",
        "B",
        " ",
        " ",
        "'s",
        "'",
        "\n",
        "\r\n",
        "\t",
        "1",
        "23",
        ".",
        ",",
        "(",
        "é",
        "日",
        "\u00a0",
        "\u0301",
        "\u2581",
        "=",
        "\x85",
    ]
    found += ["".join(dice.choices(letters, k=dice.randint(1, 40))) for _ in range(4000)]
    return [text for text in found if text]


def folders(shared: Path) -> list[Path]:
    return [BUNDLED / "luthier-mini", shared / "data" / "tok_gpt2", shared / "models" / "stories260k", shared / "data" / "tok_bert"]


@pytest.mark.parametrize("place", range(4))
def test_every_tokenizer_at_hand_has_the_ids_of_its_library(place: int, texts: list[str], shared: Path) -> None:
    folder = folders(shared)[place]
    tokenizer = Tokenizer.load(folder)
    assert (tokenizer.words is not None) == (place < 2), "which tokenizers take the fast way"
    wanted = [encoding.ids for encoding in tokenizer.library.encode_batch(texts, add_special_tokens=False)]
    assert tokenizer.encode_many(texts) == wanted
    assert tokenizer.encode_many(texts) == wanted, "remembered"


@pytest.mark.parametrize("split", SPLITS)
def test_published_patterns_are_cut_and_foreign_ones_left_whole(split: str, texts: list[str], shared: Path) -> None:
    library = tokenizers.Tokenizer.from_file(str(shared / "data" / "tok_gpt2" / "tokenizer.json"))
    library.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLITS[split]), "isolated"), byte_level])
    tokenizer = Tokenizer(library.to_str().encode())
    assert (tokenizer.words is not None) == (split in ("gpt2", "llama3", "o200k"))
    wanted = [encoding.ids for encoding in tokenizer.library.encode_batch(texts, add_special_tokens=False)]
    assert tokenizer.encode_many(texts) == wanted


def test_added_tokens_in_a_text_are_met_before_its_words(shared: Path) -> None:
    library = tokenizers.Tokenizer.from_file(str(shared / "data" / "tok_gpt2" / "tokenizer.json"))
    library.add_special_tokens([AddedToken("<|im_end|>", normalized=False), AddedToken("x y", normalized=False)])
    tokenizer = Tokenizer(library.to_str().encode())
    texts = [f"row {number}: x y and <|im_end|> x  y.\nEnd" for number in range(2 * MANY)]
    assert tokenizer.words is not None
    assert tokenizer.encode_many(texts) == [encoding.ids for encoding in library.encode_batch(texts, add_special_tokens=False)]


def test_words_are_forgotten_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.data.words.REMEMBERED_WORDS", 50)
    tokenizer = Tokenizer.load(BUNDLED / "luthier-mini")
    words = tokenizer.words
    assert words is not None
    for batch in range(5):
        texts = [f"text {number + batch} of words" for number in range(2 * MANY)]
        laid = words.lay([text.encode() for text in texts])
        found = [laid.tokens[start:stop].tolist() for start, stop in pairwise(laid.borders.tolist())]
        assert found == [encoding.ids for encoding in tokenizer.library.encode_batch(texts, add_special_tokens=False)]
    assert words.remembered <= 50 + 2 * MANY + 4


@pytest.mark.parametrize("name", [*TEMPLATES, "luthier-mini"])
def test_every_fast_way_together_gives_the_tokens_of_the_plain_way(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words, pieces and outlines against whole texts through Jinja and the library."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    folder = BUNDLED / name if name == "luthier-mini" else published(shared, tmp_path, name)
    files = ("ft_openai_cookbook/toy_chat_fine_tuning.jsonl", "ft_llamafactory/alpaca_en_demo.json", "ft_fastchat/dummy_conversation.json")
    rows = [item for file in files for _, item in zip(range(120), read(shared / "data" / file), strict=False) if isinstance(item, Example)]
    rows = [row for row in rows if REFUSED.get(name) not in {turn.role for turn in row.messages} and _alternates(row)]
    fast = Renderer.from_folder(folder)
    table = tokenise(rows, renderer=fast, data=DataSpec(), context=1 << 20, cache=tmp_path / "cache", key="k")
    assert fast.tokenizer.words is not None
    assert fast.tokenizer.words.remembered > 1000
    plain = Renderer.from_folder(folder)
    monkeypatch.setattr(plain.tokenizer, "_cuts", False)
    monkeypatch.setattr("luthier.data.outline.Outlines.text", lambda *_, **__: None)
    for row, example in zip(table, rows, strict=True):
        for ours, theirs in zip(row.sequences, plain.render(example), strict=True):
            assert np.array_equal(ours.tokens, theirs.tokens)
            assert np.array_equal(ours.weights, theirs.weights)


def _alternates(row: Example) -> bool:
    """Mistral refuses any other order."""
    roles = [turn.role for turn in row.messages if turn.role != "system"]
    return all(role == ("user", "assistant")[place % 2] for place, role in enumerate(roles))
