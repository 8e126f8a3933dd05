"""Files are whole or not there, and what a kill leaves is cleared away."""

import errno
import os

import pytest

from luthier.core.errors import StorageError
from luthier.core.files import fingerprint, new_folder, sweep, write_json, write_text


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    write_json(file, {"old": True})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"a\.json: Could not write: No space left on device\."):
        write_json(file, {"new": True})
    assert file.read_text() == '{\n  "old": true\n}\n'
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    with new_folder(tmp_path / "model") as part:
        write_text(part / "x", "old")

    def fail_half_way():
        with new_folder(tmp_path / "model") as part:
            write_text(part / "x", "new")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail_half_way()
    assert (tmp_path / "model/x").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_kill_leaves_is_cleared(tmp_path):
    half = tmp_path / "checkpoints/.step-000012.77.part"
    half.mkdir(parents=True)
    (half / "weights.safetensors").write_bytes(b"half")
    (half / ".state.json.77.part").write_text("{")
    (half / ".inner.77.part").mkdir()
    (half / ".inner.77.old").mkdir()
    (tmp_path / ".state.json.77.part").write_text("{")
    sweep(tmp_path)
    assert [f.name for f in tmp_path.rglob("*")] == ["checkpoints"]


def test_a_folder_that_was_about_to_be_replaced_comes_back(tmp_path):
    """Killed between moving the old one away and the new one in."""
    old = tmp_path / "checkpoints/.best.77.old"
    old.mkdir(parents=True)
    (old / "weights.safetensors").write_bytes(b"whole")
    (tmp_path / "checkpoints/.best.77.part").mkdir()
    sweep(tmp_path)
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["best"]
    assert (tmp_path / "checkpoints/best/weights.safetensors").read_bytes() == b"whole"


def test_a_fingerprint_does_not_depend_on_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
