"""Rows as an encoder reads them: the ids transformers' tokenizer gives, and answers that come back letter by letter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from luthier.core.errors import DataError, ModelError
from luthier.core.example import Example, Message, Source
from luthier.core.spec import DataSpec
from luthier.data.plain import ENCODERS, Plain
from luthier.data.read import read
from luthier.data.render import Renderer
from luthier.data.tokenise import tokenise
from luthier.data.tokenizer import Tokenizer
from luthier.data.too_long import fit
from luthier.data.turns import Turn

ROW = Source("reviews.csv", 3)


def turn(text: str, pair: str = "") -> Turn:
    return Turn(text, "", 1.0, 1, pair)


def asked(text: str, label: str, *, pair: str = "", weight: float = 1.0) -> Example:
    question = f"{text}\n\n{pair}" if pair else text
    return Example(ROW, messages=[Message("user", question), Message("assistant", label, weight)], label=label, pair=pair)


@pytest.fixture(scope="module")
def bert(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    """BERT's published tokenizer."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "tokenizer.json").write_bytes((shared / "data/tok_bert/tokenizer.json").read_bytes())
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return Renderer.from_folder(folder)


TEXTS = ["How do I locate my card?", "naïve café, 北京!", "", "x" * 300, "[SEP] inside", "two\nlines"]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_the_library(bert: Renderer, text: str) -> None:
    library = tokenizers.Tokenizer.from_str(bert.tokenizer.content.decode())
    library.no_truncation()
    assert bert.plain is not None
    assert bert.plain.read(turn(text)) == library.encode(text).ids
    assert bert.plain.read(turn(text, "and a second, text")) == library.encode(text, "and a second, text").ids


@pytest.mark.parametrize("label", ["card_arrival", "Überraschung 3", "-1.5e3", "北京"])
def test_an_answer_comes_back_letter_by_letter(bert: Renderer, label: str) -> None:
    """BERT's tokenizer would make lower case of it and put spaces around underscores."""
    (sequence,) = bert.render(asked("How do I locate my card?", label, weight=0.5))
    learned = sequence.weights > 0
    assert bert.decode(sequence.tokens[learned].tolist()) == label
    assert set(sequence.weights[learned].tolist()) == {0.5}
    assert (sequence.tokens[learned] >= bert.vocab_size).all()
    assert bert.length(sequence) == (~learned).sum()
    assert bert.decode(sequence.tokens[~learned].tolist()) == "[CLS] how do i locate my card? [SEP]"
    assert bert.prompt_of(asked("How do I locate my card?", label)) == sequence.tokens[~learned].tolist()


def test_two_texts_of_a_row_and_several_messages(plain_renderer: Renderer) -> None:
    (pair,) = plain_renderer.render(asked("It rains.", "yes", pair="It is wet."))
    assert plain_renderer.decode(pair.tokens) == "[CLS]It rains.[SEP]It is wet.[SEP]yes"
    example = Example(
        ROW, messages=[Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "a"), Message("assistant", "b")]
    )
    (several,) = plain_renderer.render(example)
    assert plain_renderer.decode(several.tokens) == "[CLS]Be kind.\nHi\na[SEP]b"
    assert plain_renderer.prompt(example.messages[:2]) == plain_renderer.plain.read(turn("Be kind.\nHi"))


def test_a_table_of_pairs_is_recognised(tmp_path: Path, plain_renderer: Renderer) -> None:
    file = tmp_path / "nli.jsonl"
    rows = [{"premise": f"It rains, {n}.", "hypothesis": "It is wet." if n else None, "label": n % 2} for n in range(4)]
    file.write_text("\n".join(map(json.dumps, rows)))
    found: Any = list(read(file))
    assert [(e.pair, e.label) for e in found] == [("", "0"), ("It is wet.", "1"), ("It is wet.", "0"), ("It is wet.", "1")]
    assert found[1].messages[0].content == "It rains, 1.\n\nIt is wet."
    table = tokenise(found, renderer=plain_renderer, data=DataSpec(), context=40, cache=tmp_path / "cache", key="nli")
    assert [plain_renderer.decode(row.sequences[0].tokens) for row in table][:2] == [
        "[CLS]It rains, 0.[SEP]0",
        "[CLS]It rains, 1.[SEP]It is wet.[SEP]1",
    ]


def test_a_long_text_loses_its_end_and_an_answer_takes_no_room(plain_renderer: Renderer) -> None:
    example = asked("abcdefgh", "a long label")
    sequences = plain_renderer.render(example)
    assert fit(plain_renderer, example, sequences, learn="answers", context=10, policy="refuse").sequences == sequences
    fitted = fit(plain_renderer, example, sequences, learn="answers", context=6, policy="cut_prompt")
    assert plain_renderer.decode(fitted.sequences[0].tokens) == "[CLS]abcd[SEP]a long label"
    assert (fitted.cut, fitted.reason) == (4, "cut_prompt: the last 4 tokens are left out")
    assert np.array_equal(fitted.sequences[0].weights, [0] * 6 + [1] * 12)
    for policy, row in (("refuse", example), ("split", example), ("cut_prompt", asked("abcdefgh", "x", pair="ij"))):
        with pytest.raises(DataError, match=r"tokens, but the model reads 6") as caught:
            fit(plain_renderer, row, plain_renderer.render(row), learn="answers", context=6, policy=policy)
        assert caught.value.code == "too_long"


def test_rows_it_has_no_place_for_are_refused(plain_renderer: Renderer) -> None:
    pair = Example(ROW, "preference", [Message("user", "Q")], chosen=[Message("assistant", "A")], rejected=[Message("assistant", "B")])
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}
    tools = Example(ROW, messages=[Message("user", "Q"), Message("assistant", tool_calls=[call]), Message("assistant", "A")])
    for example, code, words in (
        (pair, "encoder_rows", "reads a row and says what it is"),
        (tools, "unrendered", "tools, their calls and thinking have no place"),
        (Example(ROW, "text", text="no answer"), "nothing_learned", "The row teaches nothing"),
        (asked("Q", "A", weight=0), "nothing_learned", "The row teaches nothing"),
    ):
        with pytest.raises(DataError, match=words) as caught:
            plain_renderer.render(example)
        assert caught.value.code == code
        assert caught.value.where.startswith("reviews.csv row 3")


def test_robertas_two_separators_between_texts() -> None:
    library = tokenizers.Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "a": 2, "b": 3}, []))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    plain = Plain(Tokenizer(library.to_str().encode()))
    assert plain.read(turn("ab", "b")) == library.encode("ab", "b").ids == [0, 2, 3, 1, 1, 3, 1]


def test_a_tokenizer_that_puts_nothing_around_a_text_is_refused(tiny_renderer: Renderer) -> None:
    with pytest.raises(ModelError, match="puts no tokens around a text") as caught:
        Plain(tiny_renderer.tokenizer)
    assert caught.value.code == "tokenizer"


def test_what_is_saved_renders_alike(plain_renderer: Renderer, tmp_path: Path) -> None:
    plain_renderer.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert Renderer.from_folder(tmp_path).fingerprint == plain_renderer.fingerprint
    assert not list(tmp_path.glob("*.jinja"))
    assert not (tmp_path / "generation_config.json").exists()


def test_every_encoder_type_has_a_family() -> None:
    from luthier.models.families import encoder

    assert encoder.MODEL_TYPES == ENCODERS
