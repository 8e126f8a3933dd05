"""A short form of `service_kills.py` for every test run: no job is left alone to compare with, and no API."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(280)
@pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True)
def test_jobs_whose_processes_are_killed_end_once(
    shared: Path, tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("service_kills", Path(__file__).with_name("service_kills.py"))
    assert spec is not None
    assert spec.loader is not None
    kills = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "service_kills", kills)  # its dataclass looks itself up
    spec.loader.exec_module(kills)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("LUTHIER_HOME", str(home))
    rows = kills.write_rows(tmp_path / "rows.jsonl")
    trial = kills.Trial(home, empty_database_url, shared / "models/stories260k", rows, random.Random(2))
    try:
        kills.run(trial, kills=3, jobs=1, api=False, pause=1.5)
    finally:
        trial.end()
    assert sum(trial.kills.values()) == 3
    assert kills.wrong(trial) == []
    trial.database.close()
