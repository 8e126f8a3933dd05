"""Broken bytes become Problems in their row; the rows around them are read."""

import gzip
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import luthier.data.bytes as data_bytes
from luthier.core.errors import DataError
from luthier.core.example import Example
from luthier.core.problem import Problem
from luthier.data.containers import array, lines
from luthier.data.json_rows import Flaw, Record
from luthier.data.read import read

GOOD = b'{"prompt": "a", "completion": "b"}'


@pytest.mark.parametrize(
    ("bad", "code", "words"),
    [
        (b'{"prompt": "a", "completion": NaN}', "invalid_json", "NaN is not a JSON number"),
        (b'{"prompt": "a", "completion": "b", "prompt": "c"}', "duplicate_key", "'prompt' is given twice"),
        (b'{"prompt" : "a", "completion":"b", "prompt":"c"}', "duplicate_key", "'prompt' is given twice"),
        (b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}", "invalid_json", "1,024 deep"),
        (b'{"prompt": "a\x00", "completion": "b"}', "invalid_json", "NUL byte"),
        (b'{"prompt": "caf\xe9", "completion": "b"}', "invalid_utf8", r"0xe9\) is not UTF-8"),
        (b'{"prompt": "\\ud83d", "completion": "b"}', "invalid_json", "surrogate"),
        (b'{"prompt": "a", "completion": "b"', "invalid_json", "breaks off"),
        (b"[1, 2]", "not_an_object", "a list"),
        (b'{"prompt": true, "completion": "b"}', "wrong_type", "true or false"),
        (b'{"prompt": "a", "completoin": "b"}', "unknown_field", "'completoin'"),
    ],
)
def test_a_bad_line_is_a_problem_in_its_row(tmp_path: Path, bad: bytes, code: str, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([GOOD, bad, GOOD]))
    items = list(read(path))
    problems = [item for item in items if isinstance(item, Problem)]
    assert [item.source.row for item in items if isinstance(item, Example)] == [1, 3]
    assert problems[0].row == 2
    assert problems[0].code == code
    assert problems[0].remedy
    assert re.search(words, problems[0].message)


def test_nesting_that_orjson_reads_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    deep = b'{"a" :' * 1000 + b"1" + b"}" * 1000
    path.write_bytes(b"\n".join([GOOD, deep]))
    assert {item.row for item in read(path) if isinstance(item, Problem)} == {2}


def test_a_huge_line_is_skipped_without_holding_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_bytes, "MAX_ROW_BYTES", 3 << 20)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n" + b'{"prompt": "' + b"a" * (8 << 20) + b'"}\n' + GOOD + b"\n")
    items = list(read(path))
    assert [getattr(item, "code", "read") for item in items] == ["read", "row_too_big", "read"]


def test_broken_elements_of_an_array(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + GOOD + b', {"prompt": nothing},\n' + GOOD + b"] trailing")
    items = list(read(path))
    assert [item.source.row for item in items if isinstance(item, Example)] == [1, 3]
    assert [(item.row, item.code) for item in items if isinstance(item, Problem)] == [(2, "invalid_json"), (4, "invalid_json")]
    path.write_bytes(b"[" + GOOD + b"," + GOOD[:-5])
    assert "ends in the middle" in next(item for item in read(path) if isinstance(item, Problem)).message


@pytest.mark.parametrize("cut", [0.7, 0.99])
def test_a_damaged_gzip(tmp_path: Path, cut: float) -> None:
    packed = gzip.compress(b"\n".join(b'{"prompt": "%d", "completion": "b"}' % (n * 7919**3) for n in range(70_000)))
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(packed[: int(len(packed) * cut)])
    *good, last = read(path)
    assert len(good) > 100
    assert isinstance(last, Problem)
    assert (last.code, last.row) == ("damaged_gzip", 0)


def test_a_gzip_damaged_at_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD * 50)[:-9])
    with pytest.raises(DataError, match="damaged or cut off"):
        list(read(path))


def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_bytes, "BOMB_BYTES", 1 << 20)
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress((GOOD + b"\n") * 60_000))
    last = list(read(path))[-1]
    assert isinstance(last, Problem)
    assert last.code == "bomb"


def test_cells_that_do_not_add_up(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"text,label\n" + b"".join(b"row %d,yes\n" % n for n in range(20)) + b"one,two,three\nlast,no\n")
    items = list(read(path))
    assert [(item.row, item.code) for item in items if isinstance(item, Problem)] == [(22, "wrong_columns")]
    assert sum(isinstance(item, Example) for item in items) == 21


class Pieces:
    """A stream that hands out its bytes a few at a time."""

    def __init__(self, content: bytes, size: int) -> None:
        self._source, self._size = io.BytesIO(content), size

    def piece(self, size: int = 0) -> bytes:
        return self._source.read(self._size)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(
    table=st.lists(st.dictionaries(st.text(), json_values, max_size=4), min_size=1, max_size=5),
    size=st.integers(1, 64),
    spaced=st.booleans(),
)
def test_any_cut_of_the_bytes_gives_the_same_rows(table: list[dict[str, object]], size: int, spaced: bool) -> None:
    as_array = json.dumps(table, indent=2 if spaced else None, ensure_ascii=spaced).encode("utf-8", "surrogatepass")
    as_lines = "\n".join(json.dumps(row, ensure_ascii=spaced) for row in table).encode("utf-8", "surrogatepass")
    for container, content in ((array, as_array), (lines, as_lines)):
        assert [item.fields for item in container.records(Pieces(content, size), {}) if isinstance(item, Record)] == table


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300), size=st.integers(1, 64))
def test_no_bytes_raise(content: bytes, size: int) -> None:
    for container in (array, lines):
        assert all(isinstance(item, Record | Flaw) for item in container.records(Pieces(content, size), {}))
