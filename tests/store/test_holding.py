"""Two processes never write one run: the lock where there is one, the token where there is none."""

from pathlib import Path

import pytest

from luthier.core.errors import StorageError
from luthier.core.files import new_folder, write_json
from luthier.store.holding import LOCK, held, token_of


def test_a_run_is_held_by_one_and_free_again_afterwards(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(StorageError, match="Another process works on this run") as refused, held(tmp_path, token=9):
        pass
    assert refused.value.code == "run_busy"
    assert token_of(tmp_path) == 0, "who was refused leaves nothing"
    with held(tmp_path, token=3):
        assert token_of(tmp_path) == 3


def test_an_older_token_is_refused_and_no_token_takes_what_is_there(tmp_path: Path) -> None:
    with held(tmp_path, token=12):
        pass
    with pytest.raises(StorageError, match="A newer worker has taken this run over") as refused, held(tmp_path, token=7):
        pass
    assert refused.value.code == "run_taken"
    with held(tmp_path):
        write_json(tmp_path / "state.json", {})
    assert token_of(tmp_path) == 12


def test_where_locks_do_not_reach_the_token_stops_the_next_rename(tmp_path: Path) -> None:
    with held(tmp_path, token=1):
        write_json(tmp_path / "state.json", {"step": 1})
        with new_folder(tmp_path / "weights") as part:
            (part / "a").write_text("old")
        (tmp_path / LOCK).write_text("2")  # a successor on another machine
        with pytest.raises(StorageError, match="newer worker"):
            write_json(tmp_path / "state.json", {"step": 2})
        with pytest.raises(StorageError, match="newer worker"), new_folder(tmp_path / "weights") as part:
            (part / "a").write_text("new")
    assert (tmp_path / "state.json").read_text() == '{\n  "step": 1\n}\n'
    assert (tmp_path / "weights" / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK, "state.json", "weights"], "nothing half-written stays"
    write_json(tmp_path / "state.json", {"step": 3})  # the fence ends with the block
