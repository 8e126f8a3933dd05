"""What the ledger says, and that it survives the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from luthier.core.errors import StorageError
from luthier.core.example import Source
from luthier.core.sequence import Sequence
from luthier.data import ledger as ledgers
from luthier.data.ledger import CHUNK, SCHEMA, Ledger, Totals, totals


def path(*weights: float) -> Sequence:
    return Sequence(np.arange(len(weights), dtype=np.int32), np.asarray(weights, dtype=np.float32))


def test_each_row_is_one_line_and_the_totals_add_up() -> None:
    ledger = Ledger()
    assert ledger.add(Source("a.jsonl", 1), [path(0, 0, 1, 0.5), path(0, 1)]) == 3
    assert ledger.add(Source("a.jsonl", 2), [], cut=9, reason="dropped: 9 tokens, the model reads 4") == 0
    table = ledger.table()
    assert table.column_names == ["file", "row", "total", "learned", "masked", "cut", "reason"]
    assert table.to_pylist() == [
        {"file": "a.jsonl", "row": 1, "total": 6, "learned": 3, "masked": 3, "cut": 0, "reason": ""},
        {"file": "a.jsonl", "row": 2, "total": 0, "learned": 0, "masked": 0, "cut": 9, "reason": "dropped: 9 tokens, the model reads 4"},
    ]
    assert totals(table) == Totals(rows=1, dropped=1, tokens=6, learned=3, masked=3, cut=9)


def test_a_long_ledger_keeps_its_order_and_an_empty_one_its_columns(tmp_path: Path) -> None:
    ledger = Ledger()
    for row in range(CHUNK + 3):
        ledger.add(Source(f"part{row % 2}.jsonl", row + 1), [path(0, 1)])
    ledgers.save(ledger.table(), tmp_path / "ledger.parquet")
    back = ledgers.read(tmp_path / "ledger.parquet")
    assert back["row"].to_pylist() == list(range(1, CHUNK + 4))
    assert back["file"].to_pylist()[-2:] == ["part1.jsonl", "part0.jsonl"]
    assert Ledger().table().schema == SCHEMA
    assert totals(Ledger().table()) == Totals(0, 0, 0, 0, 0, 0)


def test_a_damaged_or_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"ledger\.parquet"):
        ledgers.read(tmp_path / "ledger.parquet")
    (tmp_path / "ledger.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(StorageError, match="The ledger cannot be read") as caught:
        ledgers.read(tmp_path / "ledger.parquet")
    assert "Tokenise the data again" in caught.value.remedy
