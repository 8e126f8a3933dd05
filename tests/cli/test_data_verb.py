"""`luthier data`: what it prints, writes and returns."""

import json
from pathlib import Path

import pytest

from luthier.cli.main import dispatch
from luthier.core.errors import DataError, NotFound, SpecError


def good(folder: Path, name: str = "rows.jsonl", count: int = 40) -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps({"prompt": f"What is {n} and {n * n}?", "completion": f"{n + n * n}"}) for n in range(count)))
    return path


def test_check_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["data", "check", str(good(tmp_path))]) == 0
    shown = capsys.readouterr().out
    assert "prompt_completion" in shown
    assert "40 rows, 0 errors" in shown
    assert "the file passes" in shown


def test_check_as_json_is_one_object_and_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = good(tmp_path)
    path.write_text(path.read_text() + '\n{"prompt": "a", "completion": ""}\nno json')
    assert dispatch(["data", "check", str(path), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert {(p["row"], p["code"]) for p in content["problems"] if p["severity"] == "error"} == {(41, "empty_answer"), (42, "invalid_json")}
    assert content["ok"] is False


def test_check_shows_problems_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["data", "check", str(good(tmp_path, count=4))]) == 1
    assert "too_few_rows" in capsys.readouterr().out


def test_check_with_a_model_finds_long_rows(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = good(tmp_path)
    path.write_text(path.read_text() + "\n" + json.dumps({"prompt": "long", "completion": "word " * 3000}))
    assert dispatch(["data", "check", str(path), "--model", str(shared / "models/stories260k"), "--json"]) == 1
    found = [p for p in json.loads(capsys.readouterr().out)["problems"] if p["code"] == "too_long"]
    assert [problem["row"] for problem in found] == [41]


def test_split_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = good(tmp_path, "tickets.jsonl", count=200)
    assert dispatch(["data", "split", str(path), "--out", str(tmp_path / "out"), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["train_rows"] + content["heldout_rows"] == 200
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["tickets.heldout.jsonl", "tickets.train.jsonl"]
    assert dispatch(["data", "check", content["train"], "--valid", content["heldout"]]) == 0


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file"):
        dispatch(["data", "check", str(tmp_path / "nothing.jsonl")])
    with pytest.raises(SpecError, match=r"data\.valid = 0\.9 does not do: Input should be less than or equal to 0\.5"):
        dispatch(["data", "split", str(good(tmp_path)), "--share", "0.9"])
    with pytest.raises(SpecError, match="Did you mean prompt_completion"):
        dispatch(["data", "check", str(good(tmp_path)), "--format", "prompt_completions"])


def test_split_writes_over_nothing_and_leaves_no_side_empty(tmp_path: Path) -> None:
    path = good(tmp_path, count=200)
    (tmp_path / "rows.heldout.jsonl").write_text("mine")
    with pytest.raises(SpecError, match="This file exists") as caught:
        dispatch(["data", "split", str(path)])
    assert caught.value.where == str(tmp_path / "rows.heldout.jsonl")
    assert not (tmp_path / "rows.train.jsonl").exists()
    with pytest.raises(DataError, match="Nothing would be held out of 3 rows"):
        dispatch(["data", "split", str(good(tmp_path, "few.jsonl", count=3)), "--share", "0.001"])
    with pytest.raises(SpecError, match="--seed"):
        dispatch(["data", "split", str(good(tmp_path, "few.jsonl")), "--seed", "-1"])
    assert not list(tmp_path.glob("few.*.jsonl"))


def test_a_group_that_no_row_has_is_found_by_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["data", "check", str(good(tmp_path)), "--group", "customer", "--json"]) == 1
    (found,) = [p for p in json.loads(capsys.readouterr().out)["problems"] if p["severity"] == "error"]
    assert found["code"] == "no_group"
    assert "'customer'" in found["message"]
