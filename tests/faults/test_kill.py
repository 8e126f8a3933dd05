"""A short form of `kill.py` for every test run."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(280)
def test_killed_runs_end_byte_equal(shared, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("kill", Path(__file__).with_name("kill.py"))
    assert spec is not None
    assert spec.loader is not None
    kill = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kill", kill)  # its dataclass looks itself up
    spec.loader.exec_module(kill)
    model = str(shared / "models/stories260k")
    rows = tmp_path / "rows.csv"
    rows.write_text("".join((shared / "data/ft_banking77/test.csv").read_text().splitlines(keepends=True)[:60]))
    found = kill.trials(rows, model, kills=2, steps=12, seed=1, place=tmp_path, extra=["--quality", "draft"])
    assert [(k.equal, k.broken) for k in found] == [(True, [])] * 2
