"""The bundled sample: made again byte for byte, and fair: held-out rows are other messages in other words."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import make
import pytest
from answers import SYSTEM, answer
from tokenizers import Tokenizer

Rows = list[list[dict[str, Any]]]


def read(name: str) -> Rows:
    return [json.loads(line)["messages"] for line in (make.SAMPLES / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def train() -> Rows:
    return read("desk.jsonl")


@pytest.fixture(scope="module")
def held_out() -> Rows:
    return read("desk.heldout.jsonl")


def label(row: list[dict[str, Any]]) -> str:
    return str(row[2]["content"]).partition("\n")[0]


def test_made_again_the_files_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["make.py", str(tmp_path)])
    make.main()
    for name in ("desk.jsonl", "desk.heldout.jsonl"):
        assert (tmp_path / name).read_bytes() == (make.SAMPLES / name).read_bytes()


def test_rows_by_label(train: Rows, held_out: Rows) -> None:
    assert Counter(map(label, train)) == make.ROWS
    assert len(train) == 600 and len(held_out) == 120
    found = Counter(map(label, held_out))
    assert found.keys() == make.ROWS.keys() and min(found.values()) >= 10 and max(found.values()) <= 25


def test_the_system_prompt_lists_every_label_in_about_150_tokens(train: Rows, held_out: Rows, bundled: Path) -> None:
    tokenizer = Tokenizer.from_file(str(bundled / "tokenizer.json"))
    assert 130 <= len(tokenizer.encode(SYSTEM).ids) <= 190
    assert all(f"\n{name}: " in SYSTEM for name in make.ROWS)
    assert all(row[0] == {"role": "system", "content": SYSTEM} for row in train + held_out)


def test_no_message_occurs_twice(train: Rows, held_out: Rows) -> None:
    messages = [row[1]["content"].lower() for row in train + held_out]
    assert len(set(messages)) == len(messages)


def trigrams(text: str) -> set[tuple[str, ...]]:
    words = re.sub(r"\d+", "0", re.sub(r"[^\w\s']", " ", text.lower())).split()
    return set(zip(words, words[1:], words[2:], strict=False))


def test_held_out_messages_are_no_near_duplicates(train: Rows, held_out: Rows) -> None:
    known = [trigrams(row[1]["content"]) for row in train]
    for row in held_out:
        mine = trigrams(row[1]["content"])
        nearest = max(len(mine & other) / max(1, len(mine | other)) for other in known)
        assert nearest < 0.3, (nearest, row[1]["content"])


def test_answers_repeat_what_the_customer_named(train: Rows, held_out: Rows) -> None:
    for row in train + held_out:
        said, numbers = row[2]["content"], re.findall(r"\b\d{5}\b", row[1]["content"])
        assert said.count("\n") == 1 and said.endswith(".")
        assert re.findall(r"\b\d{5}\b", said) == [number for number in numbers if label(row) not in ("product", "stock") or number in said]
        product = re.search(rf"({'|'.join(make.GLAZES)}|dove grey) ({'|'.join(make.PIECES)}|lamp base)", said)
        assert product is None or product[0] in row[1]["content"]


def test_an_answer_in_full() -> None:
    assert (
        answer("damaged", product="blue mug", order="40127")
        == "damaged\nI am sorry your blue mug is damaged, I will replace order 40127 at once."
    )
    assert answer("stock", product="", order="").endswith("I will write to you when the next one is ready.")
