"""Jobs through the real client, without a worker: what is asked, listed, shown and refused."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
import pytest

from server.live import Live
from server.rows import finish, project
from server.test_files import ROWS

MODEL = "luthier-mini"


@pytest.fixture(scope="module")
def file_id(client: openai.OpenAI) -> str:
    return client.files.create(file=("tickets.jsonl", ROWS), purpose="fine-tune").id


def test_a_job_is_asked_for(client: openai.OpenAI, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=file_id,
        suffix="desk",
        seed=7,
        metadata={"shop": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}},
        extra_body={"luthier": {"method": {"name": "lora", "rank": 8}, "quality": "draft"}, "colour": "red"},
    )
    assert (job.object, job.status, job.model, job.training_file, job.seed) == ("fine_tuning.job", "validating_files", MODEL, file_id, 7)
    assert job.hyperparameters.n_epochs == 2 and job.metadata == {"shop": "a"} and job.fine_tuned_model is None
    assert job.method and job.method.supervised and job.method.supervised.hyperparameters
    assert job.method.supervised.hyperparameters.n_epochs == 2
    shown: Any = client.fine_tuning.jobs.retrieve(job.id).model_dump()["luthier"]
    assert shown["ignored"] == ["colour"] and shown["queue_position"] >= 1
    assert shown["spec"]["method"]["rank"] == 8 and shown["spec"]["train"]["epochs"] == 2
    assert shown["spec"]["model"]["name"] == MODEL and shown["spec"]["data"]["file"] == file_id
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.cancel(job.id)
    assert caught.value.code == "job_state"


EXACT = {"type": "string_check", "name": "exact", "input": "{{sample.output_text}}", "reference": "{{item.answer}}", "operation": "eq"}
NEAR = {"type": "text_similarity", "name": "near", "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}
NEAR = {**NEAR, "evaluation_metric": "fuzzy_match"}


def test_learning_from_grades(client: openai.OpenAI, file_id: str) -> None:
    both = {"type": "multi", "name": "both", "graders": {"exact": EXACT, "near": NEAR}, "calculate_output": "0.8 * exact + 0.2 * near"}
    numbers = {"n_epochs": 1, "compute_multiplier": 0.5, "eval_interval": 5, "eval_samples": 3, "reasoning_effort": "low"}
    method: Any = {"type": "reinforcement", "reinforcement": {"grader": both, "hyperparameters": numbers}}
    made = client.fine_tuning.jobs.create(model=MODEL, training_file=file_id, method=method)
    job = client.fine_tuning.jobs.retrieve(made.id)
    assert job.method and job.method.type == "reinforcement" and job.method.reinforcement
    assert job.method.reinforcement.grader.type == "multi"
    assert job.method.reinforcement.hyperparameters and job.method.reinforcement.hyperparameters.eval_interval == 5
    luthier = job.model_dump(warnings=False)["luthier"]  # the client knows multi with a single grader only
    objective = luthier["spec"]["objective"]
    assert (objective["name"], objective["samples"]) == ("grpo", 4)
    assert objective["grader"]["calculate_output"] == both["calculate_output"]
    assert luthier["spec"]["train"]["validate_every"] == 5
    hyperparameters = "method.reinforcement.hyperparameters"
    assert luthier["ignored"] == [f"{hyperparameters}.eval_samples", f"{hyperparameters}.reasoning_effort"]
    client.fine_tuning.jobs.cancel(job.id)


@pytest.mark.parametrize(
    ("grader", "where", "said"),
    [
        ({"type": "python", "source": "import os"}, ".type", "would run code of a client"),
        ({"type": "score_model", "model": "judge", "input": []}, ".type", "would ask another model"),
        ({"type": "multi", "graders": {"a": EXACT, "b": {"type": "label_model"}}}, ".graders.b.type", "would ask another model"),
        ({"type": "multi", "graders": {"a": EXACT}, "calculate_output": "a.__class__"}, "", "is not reckoned"),
        ({**NEAR, "evaluation_metric": "cosine"}, "", "cosine"),
        ({"name": "nobody"}, "", "has no type"),
    ],
)
def test_graders_that_are_not_done_here(client: openai.OpenAI, file_id: str, grader: dict[str, Any], where: str, said: str) -> None:
    method: Any = {"type": "reinforcement", "reinforcement": {"grader": grader}}
    with pytest.raises(openai.BadRequestError, match=said) as refused:
        client.fine_tuning.jobs.create(model=MODEL, training_file=file_id, method=method)
    assert refused.value.param == f"method.reinforcement.grader{where}"


def test_learning_from_preferences(client: openai.OpenAI) -> None:
    pairs = [
        {
            "input": {"messages": [{"role": "user", "content": f"Hello, number {n}"}]},
            "preferred_output": [{"role": "assistant", "content": "Good day."}],
            "non_preferred_output": [{"role": "assistant", "content": "What?"}],
        }
        for n in range(12)
    ]
    file = client.files.create(file=("pairs.jsonl", "\n".join(map(json.dumps, pairs)).encode()), purpose="fine-tune")
    method: Any = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.3}}}
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=file.id, method=method)
    assert job.method and job.method.dpo and job.method.dpo.hyperparameters and job.method.dpo.hyperparameters.beta == 0.3
    objective = client.fine_tuning.jobs.retrieve(job.id).model_dump()["luthier"]["spec"]["objective"]
    assert (objective["name"], objective["beta"]) == ("dpo", 0.3)
    client.fine_tuning.jobs.cancel(job.id)


def test_pause_and_resume(client: openai.OpenAI, live: Live, file_id: str) -> None:
    from luthier.jobs.states import move
    from luthier.store.tables.jobs import Job

    job = client.fine_tuning.jobs.create(model=MODEL, training_file=file_id)
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.pause(job.id)
    with live.service.database.write() as session:
        move(session, session.query(Job).filter(Job.id == job.id).one(), "queued", "Its files are good.")
    assert client.fine_tuning.jobs.pause(job.id).status == "paused"
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    client.fine_tuning.jobs.cancel(job.id)


def test_the_same_request_again_is_one_job(http: httpx2.Client, file_id: str) -> None:
    body = {"model": MODEL, "training_file": file_id, "metadata": {"n": "same"}}

    def make(**headers: str) -> str:
        return str(http.post("/v1/fine_tuning/jobs", json=body, headers=headers).json()["id"])

    first = make()
    assert make(**{"x-stainless-retry-count": "1"}) == first
    assert make() != first
    assert make(**{"idempotency-key": "k"}) == make(**{"idempotency-key": "k"})
    reused = http.post("/v1/fine_tuning/jobs", json=body | {"seed": 3}, headers={"idempotency-key": "k"})
    assert reused.status_code == 400 and reused.json()["error"]["code"] == "key_reused"


def test_jobs_are_found_by_metadata(client: openai.OpenAI, http: httpx2.Client, file_id: str) -> None:
    made = [client.fine_tuning.jobs.create(model=MODEL, training_file=file_id, metadata=m).id for m in ({"k": "é 1"}, {"k": "2"}, {})]
    assert [job.id for job in client.fine_tuning.jobs.list(metadata={"k": "é 1"})] == [made[0]]
    without = [job["id"] for job in http.get("/v1/fine_tuning/jobs?metadata=null").json()["data"]]
    assert made[2] in without and made[0] not in without
    first = client.fine_tuning.jobs.list(limit=2)
    assert first.has_more and [job.id for job in first.data] == made[:0:-1]
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.list(metadata={'"': "x"})


@pytest.mark.parametrize(
    ("change", "param", "status"),
    [
        ({"model": "gpt-none"}, "model", 404),
        ({"model": "../../etc/passwd"}, "model", 404),
        ({"model": "/etc"}, "model", 404),
        ({"training_file": "file-none"}, "training_file", 404),
        ({"validation_file": "file-none"}, "validation_file", 404),
        ({"suffix": ""}, "suffix", 400),
        ({"suffix": "a:b"}, "suffix", 400),
        ({"suffix": "x" * 65}, "suffix", 400),
        ({"seed": -1}, "seed", 400),
        ({"method": {"type": "reinforcement"}}, "method.reinforcement", 400),
        ({"method": {"type": "magic"}}, "method.type", 400),
        ({"hyperparameters": {"n_epochs": 51}}, "hyperparameters.n_epochs", 400),
        ({"hyperparameters": {"learning_rate_multiplier": 0}}, "hyperparameters.learning_rate_multiplier", 400),
        ({"metadata": {"k" * 65: "v"}}, "metadata", 400),
        ({"luthier": {"data": {"file": "/etc/passwd"}}}, "luthier.data.file", 400),
        ({"luthier": {"nonsense": 1}}, "luthier", 400),
        ({"luthier": 3}, "luthier", 400),
    ],
)
def test_jobs_that_cannot_be(http: httpx2.Client, file_id: str, change: dict[str, Any], param: str, status: int) -> None:
    for path in ("/v1/fine_tuning/jobs", "/v1/fine_tuning/jobs/forecast"):
        answer = http.post(path, json={"model": MODEL, "training_file": file_id} | change)
        assert answer.status_code == status, answer.text
        assert str(answer.json()["error"]["param"]).startswith(param)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hyperparameters": {"n_epochs": 0}}, "Input should be 'auto'; or Input should be greater than or equal to 1"),
        ({"suffix": "my desk"}, "it takes letters, digits, dots, dashes and underscores"),
    ],
)
def test_what_would_do_is_said(http: httpx2.Client, file_id: str, change: dict[str, Any], said: str) -> None:
    answer = http.post("/v1/fine_tuning/jobs", json={"model": "luthier-mini", "training_file": file_id, **change})
    assert answer.status_code == 400 and said in answer.json()["error"]["message"]


def test_a_file_for_something_else(client: openai.OpenAI) -> None:
    other = client.files.create(file=("a.jsonl", ROWS), purpose="batch")
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.create(model=MODEL, training_file=other.id)
    assert caught.value.param == "training_file"


def test_a_forecast_makes_nothing(http: httpx2.Client, file_id: str) -> None:
    before = http.get("/v1/fine_tuning/jobs").json()["data"]
    found = http.post("/v1/fine_tuning/jobs/forecast", json={"model": MODEL, "training_file": file_id}).json()
    assert found["rows"] + found["held_out"] == 12 and found["seconds"] > 0 and found["memory_bytes"] > 0 and found["currency"] == "EUR"
    assert http.get("/v1/fine_tuning/jobs").json()["data"] == before


def test_what_a_job_left(client: openai.OpenAI, live: Live, http: httpx2.Client, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=file_id, suffix="left")
    checkpoint = finish(live, job.id)
    done = client.fine_tuning.jobs.retrieve(job.id)
    assert done.status == "succeeded" and done.trained_tokens == 1234 and done.finished_at
    assert done.model_dump()["luthier"]["verdict"] == {"sentence": "No difference shown."}
    (kept,) = list(client.fine_tuning.jobs.checkpoints.list(job.id))
    assert (kept.fine_tuned_model_checkpoint, kept.step_number, kept.metrics.train_loss) == (checkpoint, 2, 1.5)
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=2))
    assert events[0].message == "Done." and {event.type for event in events} == {"message", "metrics"}
    assert {done.fine_tuned_model, checkpoint} <= {model.id for model in client.models.list()}
    with http.stream("GET", f"/v1/fine_tuning/jobs/{job.id}/events", params={"stream": "true"}) as answer:
        frames = answer.read().decode().split("\n\n")
    ids = [frame.split("\n")[0].removeprefix("id: ") for frame in frames[:-2]]
    assert ids == [event.id for event in events][::-1] and frames[-2] == "data: [DONE]"
    after = http.get(f"/v1/fine_tuning/jobs/{job.id}/events", params={"stream": "true"}, headers={"last-event-id": ids[-2]}).text
    assert json.loads(after.split("data: ")[1].split("\n")[0])["id"] == ids[-1]
    assert client.models.delete(str(done.fine_tuned_model)).deleted and client.models.delete(checkpoint).deleted
    assert not list(client.fine_tuning.jobs.checkpoints.list(job.id))
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(checkpoint)


def test_a_model_is_pinned_by_name(client: openai.OpenAI, live: Live, http: httpx2.Client, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=file_id)
    finish(live, job.id)
    model = client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model
    assert http.post(f"/v1/models/{model}", json={"pinned": True}).json()["luthier"]["pinned"] is True
    assert client.models.retrieve(str(model)).model_dump()["luthier"]["pinned"] is True
    assert "pinned" not in http.post(f"/v1/models/{model}", json={"pinned": False}).json()["luthier"]
    assert http.post(f"/v1/models/{MODEL}", json={"pinned": True}).status_code == 404
    assert http.post(f"/v1/models/{model}", json={"pinned": "yes"}).status_code == 400


def test_checkpoints_are_lent_to_other_projects(client: openai.OpenAI, live: Live, file_id: str) -> None:
    job = client.fine_tuning.jobs.create(model=MODEL, training_file=file_id, suffix="lent")
    model, permissions = finish(live, job.id), client.fine_tuning.checkpoints.permissions
    projects = [project(live, "friends"), project(live, "others")]
    made = [one.project_id for one in permissions.create(model, project_ids=projects)]
    assert made == projects
    (lent,) = permissions.list(model, project_id=projects[0])
    assert [one.project_id for one in permissions.list(model, order="ascending", limit=1)] == projects
    assert permissions.delete(lent.id, fine_tuned_model_checkpoint=model).deleted
    with pytest.raises(openai.NotFoundError):
        permissions.delete(lent.id, fine_tuned_model_checkpoint=model)
    for model_id, project_id in ((model, "proj_none"), ("ft:none", projects[0])):
        with pytest.raises(openai.NotFoundError):
            permissions.create(model_id, project_ids=[project_id])


def test_jobs_that_are_not_there(client: openai.OpenAI) -> None:
    jobs = client.fine_tuning.jobs
    for call in (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list):
        with pytest.raises(openai.NotFoundError):
            call("ftjob-none")
