"""The whole job, as a user's own script does it: unmodified client, real service, real worker, the bundled base, a few rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import openai

COLOURS = ["red", "green", "blue", "white", "black", "brown"]
ROWS = [
    [{"role": "user", "content": f"What colour is box {n}?"}, {"role": "assistant", "content": f"Box {n} is {COLOURS[n % 6]}."}]
    for n in range(24)
]
SETTINGS: Any = {"quality": "draft", "train": {"max_steps": 4, "validate_every": 2}, "evaluate": {"rows": 2}, "data": {"valid": 0.2}}


def test_from_file_to_answer(tmp_path: Path) -> None:
    file = tmp_path / "boxes.jsonl"
    file.write_text("".join(json.dumps({"messages": turns}) + "\n" for turns in ROWS))
    command = [sys.executable, "-m", "luthier", "serve", "--port", "0", "--json"]
    environment = dict(os.environ, LUTHIER_HOME=str(tmp_path / "home"), OMP_NUM_THREADS="1")
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as service:
        try:
            assert service.stdout
            said = json.loads(service.stdout.readline())
            with openai.OpenAI(base_url=said["url"], api_key=said["key"]) as client:
                script(client, file)
                a_stream_outlives_the_end(client, service)
            assert service.wait(60) == 0
        finally:
            service.kill()


def script(client: openai.OpenAI, path: Path) -> None:
    """What somebody wrote for another service."""
    with path.open("rb") as source:
        file = client.files.create(file=source, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(
        model="luthier-mini",
        training_file=file.id,
        suffix="desk",
        seed=1,
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "auto"}}},
        extra_body={"luthier": SETTINGS},
    )
    end = time.monotonic() + 240
    while (job := client.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed") and time.monotonic() < end:
        time.sleep(0.2)
    assert job.status == "succeeded", job.error
    assert job.fine_tuned_model and job.fine_tuned_model.startswith("ft:luthier-mini:default:desk:") and job.trained_tokens
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=100))
    assert [event.data for event in events if event.type == "metrics"] and events[-1].message.startswith("The job was made")
    assert "sentence" in str(job.model_dump()["luthier"]["verdict"])
    assert [client.files.content(id).read() for id in job.result_files]
    checkpoints = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    asked: Any = {"messages": [{"role": "user", "content": "What colour is box 3?"}], "max_tokens": 12, "temperature": 0}
    for model in [job.fine_tuned_model, *(one.fine_tuned_model_checkpoint for one in checkpoints)]:
        whole = client.chat.completions.create(model=model, **asked).choices[0].message.content
        chunks = client.chat.completions.create(model=model, **asked, stream=True)
        assert whole and "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert client.models.delete(job.fine_tuned_model).deleted
    assert client.files.delete(file.id).deleted


def a_stream_outlives_the_end(client: openai.OpenAI, service: subprocess.Popen[bytes]) -> None:
    """The service is asked to stop in the middle of an answer, and finishes it."""
    asked: Any = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100, "n": 8, "temperature": 2, "seed": 3}
    chunks = client.chat.completions.create(model="luthier-mini", stream=True, **asked)
    next(chunks)
    service.send_signal(signal.SIGTERM)
    finished = {chunk.choices[0].index for chunk in chunks if chunk.choices[0].finish_reason}
    assert finished == set(range(8))
