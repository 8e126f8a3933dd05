"""`luthier files`, on the machine itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.cli.main import dispatch
from luthier.core.errors import NotFound


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Any:
    """Run a verb; returns its exit code and what it printed."""
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LUTHIER_DATABASE", raising=False)

    def run(*words: str) -> tuple[int, str]:
        code = dispatch(["files", *words])
        return code, capfd.readouterr().out

    return run


def test_a_file_from_the_shell(say: Any, tmp_path: Path) -> None:
    path = tmp_path / "tickets.jsonl"
    path.write_bytes(b'{"prompt": "a", "completion": "b"}\n')
    _, said = say("upload", str(path), "--days", "2", "--json")
    file = json.loads(said)
    assert file["filename"] == "tickets.jsonl" and file["bytes"] == 35 and file["expires_at"] > file["created_at"]
    assert file["id"] in say("list")[1] and file["id"] not in say("list", "--purpose", "batch")[1]
    assert "tickets.jsonl" in say("show", file["id"])[1]
    assert say("content", file["id"])[1] == path.read_text()
    say("content", file["id"], "--out", str(tmp_path / "copy.jsonl"))
    assert (tmp_path / "copy.jsonl").read_bytes() == path.read_bytes()
    assert say("report", file["id"]) == (1, "It was not looked at yet: the service that runs does it.\n")
    assert "deleted" in say("delete", file["id"])[1]
    with pytest.raises(NotFound):
        say("show", file["id"])
