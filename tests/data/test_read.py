"""Real files of every format are recognised and read as what they are."""

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.core.errors import DataError, NotFound, SpecError
from luthier.core.example import Example, Message
from luthier.core.problem import Problem
from luthier.data.read import read
from luthier.data.recognise import recognise

REAL = [  # file, format, container, rows that can be read
    ("ft_openai_cookbook/toy_chat_fine_tuning.jsonl", "openai_chat", "lines", 5),
    ("ft_llamafactory/alpaca_en_demo.json", "alpaca", "array", 999),
    ("ft_llamafactory/identity.json", "alpaca", "array", 91),
    ("ft_llamafactory/glaive_toolcall_en_demo.json", "sharegpt", "array", 300),
    ("ft_llamafactory/dpo_en_demo.json", "preference", "array", 300),
    ("ft_llamafactory/c4_demo.jsonl", "plain_text", "lines", 300),
    ("ft_llamafactory/wiki_demo.txt", "plain_text", "text", 30),
    ("ft_gpteacher/toolformer.json", "alpaca", "array", 2396),
    ("ft_fastchat/dummy_conversation.json", "sharegpt", "array", 500),
    ("ft_banking77/train.csv", "labelled", "table", 10003),
    ("ft_e2e_nlg/devset.csv", "prompt_completion", "table", 4672),
    ("ft_sms_spam/sms.tsv", "labelled", "table", 5574),
    ("ft_gsm8k/train.jsonl", "prompt_completion", "lines", 7473),
    ("ft_mbpp/mbpp.jsonl", "prompt_completion", "lines", 974),
    ("ft_self_instruct/seed_tasks.jsonl", "alpaca", "lines", 175),
    ("ft_self_instruct/user_oriented_instructions.jsonl", "alpaca", "lines", 252),
    ("ft_hh_rlhf/harmless-base-first800.jsonl.gz", "preference", "lines", 800),
    ("txt_tinystories/tinystories_valid_part.txt", "plain_text", "text", 19),
    ("txt_shakespeare/input.txt", "plain_text", "text", 7222),
]


def examples(path: Path, **options: Any) -> list[Example]:
    return [item for item in read(path, **options) if isinstance(item, Example)]


@pytest.mark.parametrize(("name", "format", "container", "rows"), REAL, ids=[name for name, *_ in REAL])
def test_real_files(shared: Path, name: str, format: str, container: str, rows: int) -> None:
    found = recognise(shared / "data" / name)
    assert (found.format, found.container) == (format, container)
    assert found.confidence > 0.5
    assert format in found.reason
    items = list(read(shared / "data" / name))
    assert sum(isinstance(item, Example) for item in items) == rows
    assert not [item for item in items if isinstance(item, Problem) and item.severity == "error"]


def test_tables_read_as_the_csv_module_reads_them(shared: Path) -> None:
    path = shared / "data/ft_banking77/train.csv"
    with path.open(newline="", encoding="utf-8") as source:
        expected = [(row["text"], row["category"]) for row in csv.DictReader(source)]
    assert [(e.messages[0].content, e.label) for e in examples(path)] == expected


def test_stray_quotes_survive(shared: Path) -> None:
    path = shared / "data/ft_sms_spam/sms.tsv"
    expected = [tuple(line.split("\t")) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert [(e.label, e.messages[0].content) for e in examples(path)] == expected


def test_json_arrays_read_as_the_json_module_reads_them(shared: Path) -> None:
    path = shared / "data/ft_llamafactory/alpaca_en_demo.json"
    for row, example in zip(json.loads(path.read_text(encoding="utf-8")), examples(path), strict=True):
        assert example.messages[0].content.startswith(row["instruction"])
        assert example.messages[0].content.endswith(row["input"])
        assert example.messages[1].content == row["output"]


def test_tools_of_sharegpt(shared: Path) -> None:
    roles: Counter[str] = Counter()
    for example in examples(shared / "data/ft_llamafactory/glaive_toolcall_en_demo.json"):
        roles.update(message.role for message in example.messages)
        calls = [call for message in example.messages for call in message.tool_calls]
        names = {tool["function"]["name"] for tool in example.tools}
        assert {call["function"]["name"] for call in calls} <= names
        assert [m.tool_call_id for m in example.messages if m.role == "tool"] == [call["id"] for call in calls]
    assert roles == {"user": 746, "assistant": 746 + 211, "tool": 211}


def test_dialogues_of_preference(shared: Path) -> None:
    for example in examples(shared / "data/ft_hh_rlhf/harmless-base-first800.jsonl.gz"):
        assert example.messages[0].role == "user"
        assert example.messages[-1].role == "user" or len(example.chosen) > 1
        assert example.chosen != example.rejected


def test_openai_messages_in_full(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    row = {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
            {"role": "user", "content": "Weather?", "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0},
            {"role": "tool", "content": "rain", "tool_call_id": "c1"},
            {"role": "assistant", "content": "Rain.", "weight": 1, "reasoning_content": "It rains."},
        ],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}],
    }
    (example,) = examples(rows(tmp_path, row))
    assert example.messages == [
        Message("developer", "Be brief."),
        Message("user", "Weather?", name="ann"),
        Message("assistant", "", weight=0.0, tool_calls=[call]),
        Message("tool", "rain", tool_call_id="c1"),
        Message("assistant", "Rain.", thinking="It rains."),
    ]
    assert example.tools == row["tools"]


def test_old_function_calls(tmp_path: Path) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "rain"},
        ],
        "functions": [{"name": "weather", "parameters": {}}],
    }
    (example,) = examples(rows(tmp_path, row))
    assert example.messages[1].tool_calls[0]["id"] == example.messages[2].tool_call_id == "call_1"
    assert example.tools == [{"type": "function", "function": row["functions"][0]}]


@pytest.mark.parametrize(
    "row",
    [
        {
            "input": {"messages": [{"role": "user", "content": "Hi"}]},
            "preferred_output": [{"role": "assistant", "content": "Good"}],
            "non_preferred_output": [{"role": "assistant", "content": "Bad"}],
        },
        {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Good", "rejected": "\n\nHuman: Hi\n\nAssistant: Bad"},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Good"},
            "rejected": {"from": "gpt", "value": "Bad"},
        },
        {
            "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good"}],
            "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Bad"}],
        },
    ],
    ids=["openai", "texts", "dialogues", "sharegpt", "messages"],
)
def test_every_shape_of_a_pair_reads_alike(tmp_path: Path, row: dict[str, Any]) -> None:
    (example,) = examples(rows(tmp_path, row))
    assert example.form == "preference"
    assert example.messages == [Message("user", "Hi")]
    assert (example.chosen, example.rejected) == ([Message("assistant", "Good")], [Message("assistant", "Bad")])


def test_every_container_gives_the_same_rows(tmp_path: Path) -> None:
    table = [{"instruction": f'Say {n}, "now"', "output": f"line\n{n} é"} for n in range(30)]
    lines = "\n".join(json.dumps(row) for row in table)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.json").write_text(json.dumps(table, indent=2))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "no_name").write_bytes(gzip.compress(json.dumps(table).encode()))
    with (tmp_path / "d.csv").open("w", newline="") as sink:
        writer = csv.DictWriter(sink, ["instruction", "output"])
        writer.writeheader()
        writer.writerows(table)
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "e.parquet")
    (tmp_path / "f.parquet.gz").write_bytes(gzip.compress((tmp_path / "e.parquet").read_bytes()))
    read_ = {path.name: [e.messages for e in examples(path)] for path in sorted(tmp_path.iterdir())}
    assert len(read_) == 7
    assert all(messages == read_["a.jsonl"] for messages in read_.values())
    assert read_["a.jsonl"][3][1] == Message("assistant", "line\n3 é")


def test_parquet_of_messages(tmp_path: Path) -> None:
    table = [{"messages": [{"role": "user", "content": "Hi", "name": None}, {"role": "assistant", "content": "Ho", "name": None}]}] * 3
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "chat.parquet")
    assert [e.messages for e in examples(tmp_path / "chat.parquet")] == [[Message("user", "Hi"), Message("assistant", "Ho")]] * 3


def test_a_table_tells_what_was_guessed(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_bytes(b"frage;antwort\r\n" + "".join(f"Wo ist {n}?;Über dem Fluß {n}\r\n" for n in range(40)).encode("cp1252"))
    found = recognise(path)
    assert found.details["delimiter"] == ";"
    assert found.details["encoding"] == "cp1252"
    assert found.details["header"] is True
    assert "frage is taken as the question" in found.reason
    assert examples(path)[7].messages[1].content == "Über dem Fluß 7"


def test_a_quote_that_never_closes_costs_no_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "text,label\n" + "".join(f'"good, {n}",yes\n' for n in range(5)) + '"open,no\n' + "".join(f"later {n},no\n" for n in range(700))
    )
    items = list(read(path))
    assert [e.messages[0].content for e in items if isinstance(e, Example)][5] == '"open'
    assert len(items) == 706


def test_documents_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("one\none\n\n\ntwo\n")
    assert [(e.source.row, e.text) for e in examples(path)] == [(1, "one\none"), (5, "two")]
    path.write_text("one\n\none\n<|endoftext|>\ntwo\n")
    assert [(e.source.row, e.text) for e in examples(path)] == [(1, "one\n\none"), (5, "two")]


@pytest.mark.parametrize("name", ["ft_gsm8k/train.jsonl", "ft_banking77/train.csv", "ft_llamafactory/identity.json"])
def test_only_some_rows_are_read(shared: Path, name: str) -> None:
    every = {example.source.row: example for example in examples(shared / "data" / name)}
    wanted = frozenset(list(every)[::7])
    assert examples(shared / "data" / name, wanted=wanted) == [every[row] for row in sorted(wanted)]


def test_lines_that_are_not_wanted_are_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{broken\n{"text": "three"}\n')
    assert [item.text for item in read(path, format="plain_text", wanted=frozenset({3}))] == ["three"]


def test_group_is_carried(tmp_path: Path) -> None:
    path = rows(tmp_path, {"prompt": "a", "completion": "b", "customer": 7})
    assert [e.group for e in examples(path, group="customer")] == ["7"]


@pytest.mark.parametrize(
    ("name", "content", "code", "words"),
    [
        ("a.jsonl", b'{"foo": 1}\n{"bar": 2}', "unknown_format", "foo, bar"),
        ("a.json", b'{\n "data": []\n}', "unknown_format", "one JSON object, not rows"),
        ("a.jsonl", b" \n", "empty_file", "empty"),
        ("a.jsonl", '{"prompt": "a"}'.encode("utf-16"), "invalid_utf8", "UTF-16"),
        ("a.xlsx", b"PK\x03\x04abc", "unknown_format", "zip archive"),
        ("a.bin", b"\x00\x01\x02", "unknown_format", "not a file of rows"),
    ],
)
def test_what_is_no_data_is_refused_with_words(tmp_path: Path, name: str, content: bytes, code: str, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        recognise(tmp_path / name)
    assert caught.value.code == code
    assert caught.value.remedy


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        recognise(tmp_path / "nothing.jsonl")
    with pytest.raises(NotFound, match="folder"):
        recognise(tmp_path)
    with pytest.raises(SpecError, match="Did you mean alpaca"):
        recognise(rows(tmp_path, {"prompt": "a", "completion": "b"}), format="alpacca")


def rows(folder: Path, *table: dict[str, Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in table))
    return path
