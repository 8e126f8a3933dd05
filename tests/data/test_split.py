"""A row's side follows from what it says."""

import json
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import DataError, SpecError, StorageError
from luthier.core.example import Example
from luthier.core.spec import DataSpec, checked
from luthier.data.read import read
from luthier.data.split import Split, plan_split, write_split


def write(path: Path, table: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, table)))
    return path


def pairs(numbers: Iterable[int]) -> list[dict[str, Any]]:
    return [{"prompt": f"question {n}", "completion": f"answer {n}", "customer": n // 7} for n in numbers]


def held(path: Path, **data: Any) -> set[str]:
    rows = {item.source.row: item.messages[0].content for item in read(path) if isinstance(item, Example)}
    split = plan_split(path, data=DataSpec(**data))
    assert sorted(split.train + split.valid) == sorted(rows)
    return {rows[row] for row in split.valid}


def test_equal_rows_of_different_groups_are_not_parted(tmp_path: Path) -> None:
    table = pairs(range(200))
    held_rows = plan_split(write(tmp_path / "a.jsonl", table), data=DataSpec(group="customer")).valid
    twin = {**table[held_rows[0] - 1], "customer": next(t["customer"] for n, t in enumerate(table, 1) if n not in held_rows)}
    path = write(tmp_path / "b.jsonl", [*table, twin])
    with pytest.raises(DataError, match=rf"1 rows say the same as a row of another customer.*row 201 = row {held_rows[0]}") as caught:
        plan_split(path, data=DataSpec(group="customer"))
    assert caught.value.code == "leakage"
    assert plan_split(path, data=DataSpec()).train, "without groups equal rows stay together"


def test_rows_that_are_added_move_no_other(tmp_path: Path) -> None:
    before = held(write(tmp_path / "a.jsonl", pairs(range(1000))))
    more = pairs(range(2000))
    random.Random(0).shuffle(more)
    after = held(write(tmp_path / "b.jsonl", more))
    assert before == {text for text in after if int(text.split()[1]) < 1000}
    assert 70 < len(before) < 130


def test_another_seed_gives_another_split(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", pairs(range(200)))
    sides = [plan_split(path, data=DataSpec(), seed=seed).valid for seed in (0, 0, 1)]
    assert sides[0] == sides[1] != sides[2]


def test_groups_stay_together(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", pairs(range(700)))
    split = plan_split(path, data=DataSpec(group="customer", valid=0.2))
    groups = [{(row - 1) // 7 for row in side} for side in (split.train, split.valid)]
    assert not groups[0] & groups[1]
    assert 8 < len(groups[1]) < 35
    assert "customer" in split.reason
    with pytest.raises(DataError, match="No row has the group field 'client'"):
        plan_split(path, data=DataSpec(group="client"))


def test_every_label_gets_its_share(tmp_path: Path) -> None:
    rows = [{"text": f"{label} {n}", "label": label} for label, count in (("a", 100), ("b", 40), ("c", 10)) for n in range(count)]
    path = write(tmp_path / "a.jsonl", rows)
    held_out = held(path, valid=0.2)
    assert [sum(text.startswith(label) for text in held_out) for label in "abc"] == [20, 8, 2]


def test_first_lines_of_answers_count_as_labels_where_they_are(tmp_path: Path) -> None:
    """Chat rows have no label column; a desk's answers begin with one."""

    def chat(label: str, n: int) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": f"{label} {n}"}, {"role": "assistant", "content": f"{label}\nReply {n}."}]}

    rows = [chat(label, n) for label, count in (("refund", 60), ("delivery", 40), ("stock", 20)) for n in range(count)]
    path = tmp_path / "desk.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = plan_split(path, data=DataSpec(valid=0.1))
    held_out = [rows[row - 1]["messages"][0]["content"].split()[0] for row in split.valid]
    assert {label: held_out.count(label) for label in ("refund", "delivery", "stock")} == {"refund": 6, "delivery": 4, "stock": 2}
    assert split.reason.endswith("within each label.")
    free = tmp_path / "free.jsonl"
    free.write_text("".join(json.dumps(chat(f"word{n}", n)) + "\n" for n in range(120)))
    assert plan_split(free, data=DataSpec(valid=0.1)).reason.endswith("by the hash of the content.")


def test_equal_rows_are_on_one_side(tmp_path: Path) -> None:
    for rows in (pairs(range(50)) * 3, [{"text": f"t{n % 50}", "label": "ab"[n % 2]} for n in range(150)]):
        path = write(tmp_path / "a.jsonl", rows)
        split = plan_split(path, data=DataSpec(valid=0.3))
        said = {side: {json.dumps(rows[row - 1]) for row in getattr(split, side)} for side in ("train", "valid")}
        assert not said["train"] & said["valid"]
        assert len(split.valid) == 3 * len(said["valid"])


def test_something_is_held_out_from_ten_rows_on(tmp_path: Path) -> None:
    for start in range(0, 300, 10):
        path = write(tmp_path / "a.jsonl", pairs(range(start, start + 10)))
        assert plan_split(path, data=DataSpec(valid=0.01)).valid
    assert not plan_split(path, data=DataSpec(valid=0.0)).valid


def test_a_file_of_held_out_rows(tmp_path: Path) -> None:
    path, other = write(tmp_path / "a.jsonl", pairs(range(20))), write(tmp_path / "b.jsonl", pairs(range(30, 35)))
    assert plan_split(path, data=DataSpec(valid=str(other))) == Split(
        list(range(1, 21)), list(range(1, 6)), f"Held out as you said: {other}."
    )
    write(other, pairs(range(18, 25)))
    with pytest.raises(DataError, match=r"2 rows are also in the held-out file .* row 19 = row 1, row 20 = row 2") as caught:
        plan_split(path, data=DataSpec(valid=str(other)))
    assert caught.value.code == "leakage"


def test_a_share_out_of_range(tmp_path: Path) -> None:
    for share in (0.7, -0.1, math.nan):
        with pytest.raises(SpecError, match=r"valid = .* does not do"):
            checked(DataSpec, {"valid": share})
    with pytest.raises(SpecError, match=r"0\.7 is no share"):
        plan_split(write(tmp_path / "a.jsonl", pairs(range(20))), data=DataSpec.model_construct(valid=0.7))


def test_rows_that_all_say_the_same_cannot_be_split(tmp_path: Path) -> None:
    same = write(tmp_path / "a.jsonl", pairs([1] * 20))
    with pytest.raises(DataError, match="all 20 of them say the same"):
        plan_split(same, data=DataSpec())
    grouped = write(tmp_path / "b.jsonl", [row | {"customer": "c"} for row in pairs(range(20))])
    with pytest.raises(DataError, match="all 20 of them have the same customer"):
        plan_split(grouped, data=DataSpec(group="customer"))


def test_both_sides_are_written_with_every_field(tmp_path: Path) -> None:
    rows = pairs(range(100))
    path = write(tmp_path / "a.jsonl", rows)
    split = plan_split(path, data=DataSpec())
    train, valid = tmp_path / "x" / "t.jsonl", tmp_path / "x" / "v.jsonl"
    write_split(path, split, train=train, valid=valid, data=DataSpec())
    assert [json.loads(line) for line in valid.read_text().splitlines()] == [rows[row - 1] for row in split.valid]
    assert len(train.read_text().splitlines()) == len(split.train)
    assert sorted(file.name for file in train.parent.iterdir()) == ["t.jsonl", "v.jsonl"]


def test_nothing_half_written_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", pairs(range(100)))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_split(
            path, plan_split(path, data=DataSpec()), train=tmp_path / "t.jsonl", valid=tmp_path / "file" / "v.jsonl", data=DataSpec()
        )
    assert not list(tmp_path.glob("*t.jsonl*"))


def test_a_table_survives_the_split(shared: Path, tmp_path: Path) -> None:
    path = shared / "data/ft_banking77/test.csv"
    split = plan_split(path, data=DataSpec())
    write_split(path, split, train=tmp_path / "t.jsonl", valid=tmp_path / "v.jsonl", data=DataSpec())
    again = [item for name in "tv" for item in read(tmp_path / f"{name}.jsonl") if isinstance(item, Example)]
    before = [item for item in read(path) if isinstance(item, Example)]
    assert sorted((e.messages[0].content, e.label) for e in again) == sorted((e.messages[0].content, e.label) for e in before)
