"""Run folders: made once, found by id, by the beginning of an id, by path."""

import json
from pathlib import Path

import pytest

from luthier.core.errors import NotFound, SpecError, StorageError
from luthier.store import runs


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_two_runs_of_one_second_have_two_folders(home: Path) -> None:
    made = {runs.create(out=None, stem="My Tickets (2026)", method="lora").id for _ in range(20)}
    assert len(made) == 20
    assert all("-my-tickets-2026-lora-" in name for name in made)
    assert [run.id for run in runs.listed()] == sorted(made)


def test_a_run_is_found_by_id_beginning_path_and_last(tmp_path: Path) -> None:
    here = runs.create(out=None, stem="a", method="lora")
    there = runs.create(out=tmp_path / "there", stem="a", method="lora")
    assert runs.find(here.id).path == runs.find(here.id[:-2]).path == runs.find("last").path == here.path
    assert runs.find(str(there.path)).path == there.path


def test_runs_of_jobs_stand_among_the_others_by_their_age(home: Path) -> None:
    made = [runs.create(out=None, stem="a", method="lora") for _ in range(3)]
    ages = {"ftjob-b": "2026-01-02", "ftjob-a": "2026-01-03", "20260101-000000-a-lora-0000": "2026-01-01"}
    for run, (name, created) in zip(made, ages.items(), strict=True):
        folder = run.path.rename(home / "runs" / name)
        (folder / "state.json").write_text(json.dumps({"state": "succeeded", "created": created}))
    assert [run.id for run in runs.listed()] == ["20260101-000000-a-lora-0000", "ftjob-b", "ftjob-a"]
    assert runs.find("last").id == "ftjob-a" and runs.find("ftjob-b").id == "ftjob-b"
    (home / "runs/ftjob-a/state.json").write_text("{")
    assert runs.find("last").id == "ftjob-b", "a damaged one is never the last"


def test_what_is_not_found_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There are no runs yet"):
        runs.find("tickets")
    made = runs.create(out=None, stem="tickets", method="lora")
    with pytest.raises(NotFound, match=f"There is no run called .* Did you mean {made.id}"):
        runs.find(made.id.replace("tickets", "tikets"))
    runs.create(out=None, stem="tickets", method="lora")
    with pytest.raises(NotFound, match=r"2 runs begin with '20'.*Say more"):
        runs.find("20")


def test_no_path_is_built_from_a_name(tmp_path: Path) -> None:
    runs.create(out=None, stem="a", method="lora")
    with pytest.raises(NotFound):
        runs.find("../../etc")


def test_a_folder_with_something_in_it_is_never_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert runs.create(out=tmp_path / "out", stem="a", method="lora").state()["state"] == "created"
    with pytest.raises(SpecError, match=r"exists and is not empty.*--resume"):
        runs.create(out=tmp_path / "out", stem="a", method="lora")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SpecError, match="A file of this name exists"):
        runs.create(out=tmp_path / "file", stem="a", method="lora")


def test_state_is_kept_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    run = runs.create(out=tmp_path / "r", stem="a", method="lora")
    run.mark("running", stage="tune")
    run.mark("failed", error={"code": "x"})
    assert run.state() | {"created": "", "changed": ""} == {
        "state": "failed",
        "stage": "tune",
        "error": {"code": "x"},
        "created": "",
        "changed": "",
    }
    (run.path / "state.json").write_text("{half")
    with pytest.raises(StorageError, match="state of this run cannot be read"):
        run.state()


def test_the_last_checkpoint_is_the_highest_whole_one(tmp_path: Path) -> None:
    run = runs.create(out=tmp_path / "r", stem="a", method="lora")
    assert run.last_checkpoint() is None
    for name in ("step-000009", "step-000120", "step-1000000", ".step-2000000.77.part", "best"):
        (run.checkpoints / name).mkdir(parents=True)
    last = run.last_checkpoint()
    assert last is not None
    assert last.name == "step-1000000"


def test_a_damaged_json_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    assert runs.read_json(tmp_path / "summary.json") == {}
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(StorageError, match=r"damaged: .*luthier tune --resume RUN") as caught:
        runs.read_json(tmp_path / "summary.json")
    assert caught.value.where == str(tmp_path / "summary.json")


def test_a_run_is_called_by_id_at_home_and_by_path_elsewhere(tmp_path: Path) -> None:
    here, there = runs.create(out=None, stem="a", method="lora"), runs.create(out=tmp_path / "there", stem="a", method="lora")
    assert (here.name, there.name) == (here.id, str(there.path))
