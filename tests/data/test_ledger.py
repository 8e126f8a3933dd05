"""What the ledger says, and that it survives the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from luthier.core.errors import StorageError
from luthier.core.example import Source
from luthier.data import ledger as ledgers
from luthier.data.ledger import SCHEMA, Ledger, Totals, totals


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_each_row_is_one_line_and_the_totals_add_up() -> None:
    ledger = Ledger()
    reasons = ["", "dropped: 9 tokens, the model reads 4"]
    ledger.enter([Source("a.jsonl", 1), Source("a.jsonl", 2)], numbers(6, 0), numbers(3, 0), cut=numbers(0, 9), reasons=reasons)
    assert (ledger.rows, ledger.tokens) == (2, 6)
    table = ledger.table()
    assert table.column_names == ["file", "row", "total", "learned", "masked", "cut", "reason"]
    assert table.to_pylist() == [
        {"file": "a.jsonl", "row": 1, "total": 6, "learned": 3, "masked": 3, "cut": 0, "reason": ""},
        {"file": "a.jsonl", "row": 2, "total": 0, "learned": 0, "masked": 0, "cut": 9, "reason": "dropped: 9 tokens, the model reads 4"},
    ]
    assert totals(table) == Totals(rows=1, dropped=1, tokens=6, learned=3, masked=3, cut=9)


def test_a_long_ledger_keeps_its_order_and_an_empty_one_its_columns(tmp_path: Path) -> None:
    ledger = Ledger()
    for row in range(300):
        ledger.enter([Source(f"part{row % 2}.jsonl", row + 1)], numbers(2), numbers(1))
    ledgers.save(ledger.table(), tmp_path / "ledger.parquet")
    back = ledgers.read(tmp_path / "ledger.parquet")
    assert back["row"].to_pylist() == list(range(1, 301))
    assert back["file"].to_pylist()[-2:] == ["part0.jsonl", "part1.jsonl"]
    other = Ledger()
    other.absorb(ledger.told())
    assert (other.rows, other.tokens) == (300, 600)
    assert other.table().to_pylist() == back.to_pylist()
    assert Ledger().table().schema == SCHEMA
    assert totals(Ledger().table()) == Totals(0, 0, 0, 0, 0, 0)


def test_a_damaged_or_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"ledger\.parquet"):
        ledgers.read(tmp_path / "ledger.parquet")
    (tmp_path / "ledger.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(StorageError, match="The ledger cannot be read") as caught:
        ledgers.read(tmp_path / "ledger.parquet")
    assert "Tokenise the data again" in caught.value.remedy
