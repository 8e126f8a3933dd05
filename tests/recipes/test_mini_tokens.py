"""Tokenizer, template and token rows of the bundled base."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pieces
import prepare
import pytest
from bits_per_byte import windows
from corpus import unwrapped
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import TokenRows, subset

from luthier.core.example import Example, Message, Source
from luthier.data.render import Renderer


@pytest.fixture(scope="module")
def renderer(bundled: Path) -> Renderer:
    return Renderer.from_folder(bundled)


@given(st.text(max_size=80))
@settings(max_examples=50, deadline=None)
def test_any_text_comes_back(renderer: Renderer, text: str) -> None:
    assert renderer.decode(renderer.encode(text)) == text


def test_special_tokens_and_sizes(renderer: Renderer, bundled: Path) -> None:
    assert [renderer.encode(text) for text in pieces.SPECIAL] == [[0], [1], [2], [3]]
    assert renderer.vocab_size == pieces.VOCABULARY == json.loads((bundled / "config.json").read_text())["vocab_size"]
    assert renderer.end_token == pieces.END_TURN and renderer.end_tokens == {pieces.END, pieces.END_TURN}


def test_digits_stand_alone(renderer: Renderer) -> None:
    assert [renderer.decode([token]) for token in renderer.encode("40127")] == list("40127")


def test_a_turn_ends_with_its_end_token(renderer: Renderer) -> None:
    row = Example(Source("x", 1), messages=[Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello.")])
    (sequence,) = renderer.render(row)
    learned = [int(t) for t, weight in zip(sequence.tokens, sequence.weights, strict=True) if weight]
    assert renderer.decode(learned) == "Hello.<|im_end|>"
    assert renderer.decode(sequence.tokens.tolist()).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")


def test_tools_and_calls_are_rendered(renderer: Renderer) -> None:
    tool = {"type": "function", "function": {"name": "find", "description": "Find it", "parameters": {"type": "object"}}}
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"x": 1}'}}
    messages = [
        Message("user", "Where is 1?"),
        Message("assistant", "", tool_calls=[call]),
        Message("tool", "in the hall", name="find", tool_call_id="1"),
        Message("assistant", "In the hall."),
    ]
    sequences = renderer.render(Example(Source("x", 1), messages=messages, tools=[tool]))
    text = renderer.decode(max((s.tokens.tolist() for s in sequences), key=len))
    assert '{"name": "find", "description": "Find it", "parameters": {"type": "object"}}\n' in text
    assert (
        '<|im_start|>assistant\n{"name": "find", "arguments": {"x": 1}}<|im_end|>\n<|im_start|>tool\nfind: in the hall<|im_end|>\n' in text
    )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.lists(st.integers(1, 12), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_cuts_cover_everything_and_never_cross_a_document(lengths: list[int], contexts: list[int]) -> None:
    marks = prepare.cuts(lengths, contexts=tuple(contexts)).tolist()
    assert set(np.cumsum([0, *lengths]).tolist()) <= set(marks) and marks == sorted(set(marks))
    assert max(end - start for start, end in pairwise(marks)) <= max(contexts)


def test_token_rows_read_what_was_written(tmp_path: Path) -> None:
    documents = [np.arange(10, 17, dtype=np.uint16), np.array([5, 0], np.uint16), np.array([9], np.uint16)]
    prepare.write(tmp_path, "tokens", documents, contexts=(4,))
    rows = TokenRows(tmp_path, "tokens")
    assert [row.sequences[0].tokens.tolist() for row in rows] == [[10, 11, 12, 13], [14, 15, 16], [5, 0]]
    assert all(row.sequences[0].weights.tolist() == [0.0] + [1.0] * (len(row.sequences[0].tokens) - 1) for row in rows)
    assert rows.num_tokens == 9 and len(TokenRows(tmp_path, "tokens", limit=1)) == 1
    assert [row.sequences[0].weights.tolist() for row in subset(rows, count=2, weight=0.5)] == [[0.0, 0.5, 0.5, 0.5], [0.0, 0.5]]


@given(st.integers(1, 60), st.integers(4, 20))
@settings(max_examples=50, deadline=None)
def test_windows_count_every_token_but_the_first_once(length: int, context: int) -> None:
    found = [0] * length
    for path in windows(range(length), context=context, overlap=context // 4):
        assert len(path.tokens) <= context and path.weights[0] == 0
        for token, weight in zip(path.tokens, path.weights, strict=True):
            found[token] += int(weight)
    assert found == [0] + [1] * (length - 1)


def test_hard_line_breaks_are_joined() -> None:
    assert list(unwrapped("One  line\r\nand another.\n\n\n\u201cNext\u201d _one_.")) == ["One line and another.", '"Next" one.']


def test_the_mix_leaves_the_held_out_documents_alone(shared: Path) -> None:
    import gzip
    from itertools import islice

    held = {document.text for document in prepare.held_out(shared)}
    with gzip.open(shared / "corpus/microsoft-support.jsonl.gz", "rt") as lines:
        assert not held & {json.loads(line)["text"] for line in islice(lines, 300)}
    assert len(held) > 100
