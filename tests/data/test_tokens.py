"""Token tables: the rows of the renderer, kept; and rows that are too long, treated as the Spec says."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from template_folders import published

from luthier.core.errors import DataError, StorageError
from luthier.core.example import Example, Message, Source
from luthier.core.sequence import Row, Sequence
from luthier.core.spec import DataSpec
from luthier.data.press import BATCH
from luthier.data.read import read
from luthier.data.render import Renderer
from luthier.data.tokenise import KEPT_DAYS, tokenise
from luthier.data.tokens import TokenTable


@pytest.fixture(scope="module")
def renderer(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(tmp_path_factory.getbasetemp() / "home"))
        return Renderer.from_folder(published(shared, tmp_path_factory.mktemp("models"), "Qwen-Qwen3-0.6B"))


@pytest.fixture(scope="module")
def plain(shared: Path) -> Renderer:
    return Renderer.from_folder(shared / "models" / "stories260k")


@pytest.fixture(scope="module")
def rows(shared: Path) -> list[Example]:
    """Real rows, enough for more than one batch."""
    files = ("ft_openai_cookbook/toy_chat_fine_tuning.jsonl", "ft_llamafactory/alpaca_en_demo.json", "ft_gsm8k/train.jsonl")
    found = [item for file in files for item in read(shared / "data" / file) if isinstance(item, Example)]
    return found[: BATCH + 40]


def chat(row: int, *turns: str, system: str = "") -> Example:
    messages = [Message("system", system)] if system else []
    return Example(Source("f.jsonl", row), messages=messages + [Message("assistant" if n % 2 else "user", t) for n, t in enumerate(turns)])


def never() -> Iterator[Example]:
    raise AssertionError("the cache had the answer, and yet the data was read")
    yield


def same(left: Row, right: Row) -> bool:
    pairs = zip(left.sequences, right.sequences, strict=True)
    return left.source == right.source and all(
        np.array_equal(a.tokens, b.tokens) and np.array_equal(a.weights, b.weights) and a.part == b.part for a, b in pairs
    )


def test_a_table_holds_what_the_renderer_gives_and_is_made_once(renderer: Renderer, rows: list[Example], tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    settings = {"renderer": renderer, "data": DataSpec(), "context": 16384, "cache": tmp_path, "key": "k"}
    table = tokenise(iter(rows), **settings, on_progress=lambda done, tokens: heard.append((done, tokens)))
    assert len(table) == len(rows) > BATCH
    for index in (0, 1, BATCH - 1, BATCH, len(rows) - 1):
        assert same(table[index], Row(rows[index].source, renderer.render(rows[index])))
    assert same(table[-1], table[len(rows) - 1])
    assert [row.source for row in table] == [example.source for example in rows]
    assert any(len(row.sequences) > 1 for row in table)
    tokens = sum(len(sequence.tokens) for row in table for sequence in row.sequences)
    assert heard == [(BATCH, heard[0][1]), (len(rows), tokens)]
    assert (table.totals.rows, table.totals.tokens, table.ledger.num_rows) == (len(rows), tokens, len(rows))
    again = tokenise(never(), **settings)
    assert again.fingerprint == table.fingerprint
    assert same(again[3], table[3])
    assert not again[3].sequences[0].tokens.flags.owndata
    with pytest.raises(IndexError):
        table[len(rows)]


@pytest.mark.parametrize(
    "change", [{"key": "other"}, {"data": DataSpec(learn="everything")}, {"data": DataSpec(too_long="drop")}, {"context": 512}]
)
def test_what_decides_the_content_decides_the_name(change: dict[str, object], renderer: Renderer, tmp_path: Path) -> None:
    settings: dict[str, object] = {"renderer": renderer, "data": DataSpec(), "context": 256, "cache": tmp_path, "key": "k"}
    first = tokenise([chat(1, "a", "b")], **settings)
    assert tokenise([chat(1, "a", "b")], **(settings | change)).fingerprint != first.fingerprint


def test_another_renderer_is_another_table(renderer: Renderer, plain: Renderer, tmp_path: Path) -> None:
    tables = [tokenise([chat(1, "a", "b")], renderer=r, data=DataSpec(), context=256, cache=tmp_path, key="k") for r in (renderer, plain)]
    assert tables[0].fingerprint != tables[1].fingerprint


@pytest.mark.parametrize("file", ["tokens.arrow", "ledger.parquet", "meta.json"])
def test_a_damaged_table_is_made_again(file: str, renderer: Renderer, tmp_path: Path) -> None:
    settings = {"renderer": renderer, "data": DataSpec(), "context": 256, "cache": tmp_path, "key": "k"}
    before = tokenise([chat(1, "a", "b")], **settings)
    expected = before[0].sequences[0].tokens.tolist()
    victim = tmp_path / before.fingerprint / file
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 0xFF
    victim.unlink()
    victim.write_bytes(content)
    with pytest.raises(StorageError, match="The token table cannot be used"):
        TokenTable.open(victim.parent)
    assert tokenise([chat(1, "a", "b")], **settings)[0].sequences[0].tokens.tolist() == expected
    assert TokenTable.open(victim.parent)[0].source == Source("f.jsonl", 1)


def test_all_refused_rows_are_told_at_once_and_nothing_stays(renderer: Renderer, tmp_path: Path) -> None:
    silent = Example(Source("f.jsonl", 61), messages=[Message("user", "x")])
    examples = [silent] + [chat(n, "word " * 40 * (n % 2), "answer") for n in range(1, 61)]
    with pytest.raises(DataError, match="31 rows do not pass") as caught:
        tokenise(examples, renderer=renderer, data=DataSpec(), context=32, cache=tmp_path, key="k")
    text = str(caught.value)
    assert "f.jsonl row 1: 62 tokens, but the model reads 32." in text
    assert "f.jsonl row 61: The row teaches nothing" in text
    assert "... and 11 more" in text
    assert "Set data.too_long to split, cut_prompt or drop" in text
    assert list(tmp_path.iterdir()) == []


def test_one_refused_row_keeps_its_own_code(renderer: Renderer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"f\.jsonl row 1: 62 tokens, but the model reads 32") as caught:
        tokenise([chat(1, "word " * 40, "answer")], renderer=renderer, data=DataSpec(), context=32, cache=tmp_path, key="k")
    assert caught.value.code == "too_long"


def test_drop_leaves_the_row_out_and_says_so(renderer: Renderer, tmp_path: Path) -> None:
    examples = [chat(1, "a", "b"), chat(2, "word " * 40, "answer"), chat(3, "c", "d")]
    table = tokenise(examples, renderer=renderer, data=DataSpec(too_long="drop"), context=32, cache=tmp_path, key="k")
    assert [row.source.row for row in table] == [1, 3]
    assert table.ledger["reason"].to_pylist() == ["", "dropped: 62 tokens, the model reads 32", ""]
    assert (table.totals.rows, table.totals.dropped, table.totals.cut) == (2, 1, 62)


@pytest.mark.parametrize("context", [2, 3, 16, 100])
def test_windows_of_a_text_learn_every_token_once(context: int, plain: Renderer, tmp_path: Path) -> None:
    example = Example(Source("t.txt", 1), "text", text="One day a girl went to the park. " * 5)
    (whole,) = plain.render(example)
    table = tokenise([example], renderer=plain, data=DataSpec(too_long="split"), context=context, cache=tmp_path, key="k")
    learned = [t for s in table[0].sequences for t, w in zip(s.tokens.tolist(), s.weights.tolist(), strict=True) if w]
    assert learned == whole.tokens[1:].tolist()
    assert all(len(s.tokens) <= context and s.weights[0] == 0 for s in table[0].sequences)
    assert (table.totals.learned, table.totals.cut) == (len(whole.tokens) - 1, 0)


@pytest.mark.parametrize("policy", ["split", "cut_prompt"])
def test_old_turns_go_and_the_system_turn_and_every_answer_stay(policy: str, renderer: Renderer, tmp_path: Path) -> None:
    turns = [f"{'question' if n % 2 == 0 else 'answer'} {n} " + "word " * 8 for n in range(8)]
    example = chat(1, *turns, system="Be kind.")
    table = tokenise([example], renderer=renderer, data=DataSpec(too_long=policy), context=92, cache=tmp_path, key="k")
    texts = [renderer.decode(s.tokens.tolist()) for s in table[0].sequences]
    assert len(texts) == 4
    assert all(text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n") for text in texts)
    assert all(f"answer {n}" in text and f"question {n - 1}" in text for n, text in zip((1, 3, 5, 7), texts, strict=True))
    assert "question 4" in texts[3]
    assert "question 2" not in texts[3]
    assert all(len(s.tokens) <= 92 for s in table[0].sequences)
    whole = sum(len(s.tokens) for s in renderer.render(example))
    assert table.totals.cut == whole - table.totals.tokens > 0
    assert table.ledger["reason"].to_pylist() == [f"{policy}: 2 of 4 answers see less of what precedes them"]


def test_cut_prompt_cuts_within_a_turn_when_it_must_and_never_the_answer(renderer: Renderer, tmp_path: Path) -> None:
    example = chat(1, "word " * 60, "the answer")
    table = tokenise([example], renderer=renderer, data=DataSpec(too_long="cut_prompt"), context=32, cache=tmp_path, key="k")
    (cut,) = table[0].sequences
    (whole,) = renderer.render(example)
    assert cut.tokens.tolist() == whole.tokens[-32:].tolist()
    assert renderer.decode(cut.tokens[cut.weights > 0].tolist()).endswith("the answer<|im_end|>")
    with pytest.raises(DataError, match=r"data\.too_long is split, but the answer with the one turn before it cannot be made to fit by it"):
        tokenise([example], renderer=renderer, data=DataSpec(too_long="split"), context=32, cache=tmp_path, key="k")
    with pytest.raises(DataError, match=r"data\.too_long is cut_prompt, but the answer alone cannot be made to fit by it"):
        tokenise([chat(1, "a", "b " * 60)], renderer=renderer, data=DataSpec(too_long="cut_prompt"), context=32, cache=tmp_path, key="l")


def test_a_cut_pair_keeps_one_prompt_and_both_answers(renderer: Renderer, tmp_path: Path) -> None:
    pair = Example(
        Source("f.jsonl", 1),
        "preference",
        [Message("user", "word " * 60)],
        [],
        [Message("assistant", "yes")],
        [Message("assistant", "no no")],
    )
    table = tokenise([pair], renderer=renderer, data=DataSpec(too_long="cut_prompt"), context=32, cache=tmp_path, key="k")
    chosen, rejected = table[0].sequences
    first = int(np.flatnonzero(chosen.weights)[0])
    assert chosen.tokens[:first].tolist() == rejected.tokens[:first].tolist()
    assert max(len(chosen.tokens), len(rejected.tokens)) == 32
    assert renderer.decode(chosen.tokens.tolist()).endswith("yes<|im_end|>")


def test_cut_prompt_of_a_joined_pair(plain: Renderer, tmp_path: Path) -> None:
    pair = Example(Source("f.jsonl", 1), "completion", [Message("user", "One day " * 30), Message("assistant", "she sang.")])
    table = tokenise([pair], renderer=plain, data=DataSpec(too_long="cut_prompt"), context=24, cache=tmp_path, key="k")
    (cut,) = table[0].sequences
    assert len(cut.tokens) == 24
    assert plain.decode(cut.tokens[cut.weights > 0].tolist()) == "she sang.</s>"


def test_rows_in_memory() -> None:
    row = Row(Source("f", 1), [Sequence(np.asarray([1, 2, 3], np.int32), np.asarray([0, 0, 1], np.float32), "chosen")])
    table = TokenTable.from_rows([row])
    assert same(table[0], row)
    assert table.totals.learned == 1
    row.sequences[0].weights[:] = 0
    with pytest.raises(DataError, match="f row 1: The row teaches nothing"):
        TokenTable.from_rows([row])


def test_an_interrupted_reader_leaves_nothing(renderer: Renderer, tmp_path: Path) -> None:
    def breaks() -> Iterator[Example]:
        yield chat(1, "a", "b")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenise(breaks(), renderer=renderer, data=DataSpec(), context=64, cache=tmp_path, key="k")
    assert list(tmp_path.iterdir()) == []


def test_tables_nobody_opens_are_removed_when_another_is_made(renderer: Renderer, rows: list[Example], tmp_path: Path) -> None:
    settings = {"renderer": renderer, "data": DataSpec(), "context": 16384, "cache": tmp_path}
    old, used = (tokenise(rows[:3], **settings, key=key).fingerprint for key in ("old", "used"))
    left = tmp_path / ".half.123.part"
    left.mkdir()
    long_ago = time.time() - 86_400 * (KEPT_DAYS + 1)
    for path in (tmp_path / old / "meta.json", tmp_path / used / "meta.json", left):
        os.utime(path, (long_ago, long_ago))
    tokenise(never(), **settings, key="used")
    new = tokenise(rows[:3], **settings, key="new").fingerprint
    assert {folder.name for folder in tmp_path.iterdir()} == {used, new}
