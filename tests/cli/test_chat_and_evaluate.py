"""`luthier chat` and `luthier evaluate` on a real, short run."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from luthier.cli.main import dispatch
from luthier.cli.verbs import _outcome as outcome
from luthier.core.errors import DataError, NotFound, SpecError
from luthier.jobs.run import load, tune


def write(path: Path, first: int, count: int) -> Path:
    """Rows with a label line; `first` numbers them, so that two files share none."""
    words = ("happy", "sad")
    rows = [
        [
            {"role": "user", "content": f"Tom was {words[i % 2]} on day {i}."},
            {"role": "assistant", "content": f"{('yes', 'no')[i % 2]}\nIt was day {i}."},
        ]
        for i in range(first, first + count)
    ]
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(folder / "home"))
        settings = {"train": {"max_steps": 3, "rows_per_step": 4}, "evaluate": {"rows": 2, "max_tokens": 4, "resamples": 100}}
        model = {"name": str(shared / "models" / "stories260k"), "dtype": "float32"}
        return tune(write(folder / "days.jsonl", 1, 24), out=folder / "run", model=model, **settings).folder


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Standard output of a verb with --json: exactly one object."""
    assert dispatch([*arguments, "--json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def test_one_question_is_answered_by_tuned_and_base(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = said(capsys, "chat", str(run), "--prompt", "Tom was happy on day 3.", "--max-tokens", "8")
    base = said(capsys, "chat", str(run), "--prompt", "Tom was happy on day 3.", "--max-tokens", "8", "--base")
    assert (tuned["side"], base["side"]) == ("tuned", "base")
    assert tuned["answer"] != base["answer"]


def test_a_run_that_writes_is_to_be_talked_to_next(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome.show(load(run))
    told = capsys.readouterr().out
    assert "Next:  luthier chat " in told
    assert "luthier predict" not in told


def test_the_objective_is_chosen_by_name(tmp_path: Path) -> None:
    rows = str(write(tmp_path / "days.jsonl", 1, 12))
    with pytest.raises(SpecError, match=r"There is no objective called 'predcit'\. Did you mean predict\?"):
        dispatch(["tune", rows, "--objective", "predcit"])


def test_a_conversation_survives_mistakes(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/base\n\n/bse\nTom was sad.\n/system Be kind.\n/help\n/reset\n/quit\nnever read\n"))
    assert dispatch(["chat", str(run), "--max-tokens", "4"]) == 0
    heard = capsys.readouterr()
    assert len(heard.out.strip().splitlines()) >= 1
    for words in (
        "Nothing was asked yet.",
        "There is no command /bse. Did you mean /base?",
        "(system prompt: Be kind.)",
        "/quit",
        "(forgotten)",
    ):
        assert words in heard.err


def test_wrong_uses_are_told_before_anything_is_loaded(run: Path) -> None:
    with pytest.raises(SpecError, match="--json answers one question"):
        dispatch(["chat", str(run), "--json"])
    with pytest.raises(SpecError, match=r"temperature = -1\.0 does not do"):
        dispatch(["chat", str(run), "--prompt", "x", "--temperature", "-1"])
    with pytest.raises(NotFound, match="neither a run nor a model called 'nobody'"):
        dispatch(["chat", "nobody", "--prompt", "x"])


def test_other_rows_are_judged(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(
        capsys, "evaluate", str(run), "--data", str(write(tmp_path / "new.jsonl", 101, 12)), "--rows", "4", "--out", str(tmp_path / "out")
    )
    assert (found["rows"], found["answered"], found["metric"]) == (12, 4, "label_accuracy")
    assert not any("were learned" in note for note in found["notes"])
    assert len((tmp_path / "out" / "evaluation" / "items.jsonl").read_text().splitlines()) == 4


def test_learned_rows_are_counted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(capsys, "evaluate", str(run), "--data", str(run.parent / "days.jsonl"), "--rows", "0", "--out", str(tmp_path / "out"))
    learned = len(json.loads((run / "split.json").read_text())["train"])
    assert f"{learned} of the 24 rows were learned by this run: the comparison flatters it." in found["notes"]
    assert found["metric"] == "bits_per_byte"


def test_people_see_a_table(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "new.jsonl", 201, 8)
    assert dispatch(["evaluate", str(run), "--data", str(file), "--rows", "2", "--out", str(tmp_path / "out")]) == 0
    heard = capsys.readouterr().out
    assert "bits per byte" in heard
    assert "Every answer: " in heard


def test_files_that_cannot_be_judged_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file of rows"):
        dispatch(["evaluate", str(run), "--data", str(tmp_path / "none.jsonl")])
    broken = write(tmp_path / "new.jsonl", 1, 8)
    broken.write_text(broken.read_text() + '{"messages": [\n')
    with pytest.raises(DataError, match=r"new\.jsonl row 9"):
        dispatch(["evaluate", str(run), "--data", str(broken)])
