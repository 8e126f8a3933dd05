"""The script of docs/from-openai.md runs: here it takes jobs along from one service to the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import openai
import pytest

from server.live import Live
from server.test_files import ROWS

PAGE = (Path(__file__).parents[2] / "docs" / "from-openai.md").read_text(encoding="utf-8")


def test_jobs_are_taken_along(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = live.client()
    file = client.files.create(file=("tickets.jsonl", ROWS), purpose="fine-tune")
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}}
    job = client.fine_tuning.jobs.create(model="luthier-mini", training_file=file.id, method=method, metadata={"from": "there"}, seed=5)
    before = {one.id for one in client.fine_tuning.jobs.list()}
    monkeypatch.setattr(openai, "OpenAI", lambda **_: client)
    monkeypatch.chdir(tmp_path)
    (script,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "def again" in block]
    exec(compile(script.replace("ftjob-....json", f"{job.id}.json"), "from-openai.md", "exec"), {})
    assert (tmp_path / "from-openai" / f"{file.id}.jsonl").read_bytes() == ROWS
    (made,) = [one for one in client.fine_tuning.jobs.list() if one.id not in before]
    assert made.metadata == {"from": "there"} and made.seed == 5 and made.hyperparameters.n_epochs == 2
    assert client.files.content(made.training_file).read() == ROWS
