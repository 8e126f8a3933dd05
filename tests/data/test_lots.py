"""What decides the split comes out the same whether a file is read here, by several processes, or was read before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.core.spec import DataSpec
from luthier.data import blocks, pool
from luthier.data.check import check
from luthier.data.lots import Lots
from luthier.data.split import plan_split


def rows(count: int, answers: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"Question {n}?"},
                {"role": "assistant", "content": f"Label: kind {n % answers}\nAnd {n} words more."},
            ],
            **{name: value(n) for name, value in fields.items()},
        }
        for n in range(count)
    ]


FILES = {
    "first lines": rows(400, 5),
    "too many first lines": rows(400, 399),
    "a label column": rows(400, 5, label=lambda n: f"l{n % 3}" if n % 7 else None),
    "one label": rows(400, 399, label=lambda n: "same"),
    "groups": rows(400, 5, customer=lambda n: n // 3 if n % 5 else None),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_split_alike_however_it_was_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, FILES[name])))
    data = DataSpec(valid=0.2, group="customer" if name == "groups" else "")
    alone = plan_split(path, data=data, seed=3)
    assert 40 < len(alone.valid) < 120
    here = check(path, data=data)
    assert plan_split(path, data=data, seed=3, lots=here.lots) == alone
    here.lots[0].save(tmp_path / "lots.parquet")
    assert plan_split(path, data=data, seed=3, lots=[Lots.load(tmp_path / "lots.parquet")]) == alone
    monkeypatch.setattr(pool, "LEAST_BYTES", 1)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 9_000)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    together = check(path, data=data)
    assert together.labels == here.labels
    assert plan_split(path, data=data, seed=3, lots=together.lots) == alone


@pytest.mark.parametrize(
    ("name", "different"), [("first lines", 5), ("too many first lines", 0), ("a label column", 4), ("one label", 0), ("groups", 5)]
)
def test_labels_are_those_of_the_column_or_of_few_first_lines(name: str, different: int, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, FILES[name])))
    labels = check(path, data=DataSpec()).lots[0].labels()
    assert (0 if labels is None else len(set(labels.tolist()))) == different  # rows without one among others count as one


def test_an_empty_lot_has_nothing() -> None:
    lots = Lots()
    assert (lots.numbers().tolist(), lots.deciding(), lots.grouped, lots.counts(), lots.labels()) == ([], [], False, {}, None)
    assert len(lots.said()) == 0
