"""Every method that the `openai` client has for these resources is called once; a new one of the client shows here first."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from openai import OpenAI
from pydantic import BaseModel

from server.live import Live
from server.rows import finish, project
from server.test_answers import ASKED, MODEL
from server.test_batches import lines
from server.test_files import ROWS

RESOURCES = ("files", "uploads", "fine_tuning", "models", "completions", "embeddings", "batches", "chat.completions")
VIEWS = {"with_raw_response", "with_streaming_response"}


@dataclass
class Things:
    """What a method is called with. job: a finished one; waiting: one in the queue. model, checkpoint: what the finished one left."""

    client: OpenAI
    file: str
    lines: str
    job: str
    waiting: str
    model: str
    checkpoint: str
    project: str
    kept: str

    def new_job(self) -> str:
        return self.client.fine_tuning.jobs.create(model=MODEL, training_file=self.file).id

    def new_upload(self) -> str:
        return self.client.uploads.create(bytes=3, filename="a.txt", mime_type="text/plain", purpose="user_data").id

    def permit(self) -> str:
        return self.client.fine_tuning.checkpoints.permissions.create(self.checkpoint, project_ids=[self.project]).data[0].id


class Cow(BaseModel):
    """What a chat is parsed into."""

    legs: int


def _completed(it: Things) -> Any:
    upload = it.new_upload()
    part = it.client.uploads.parts.create(upload, data=b"abc")
    return it.client.uploads.complete(upload, part_ids=[part.id])


def _streamed(it: Things) -> Any:
    with it.client.chat.completions.stream(**ASKED) as events:
        return events.get_final_completion()


PERMISSIONS = "fine_tuning.checkpoints.permissions"
GRADER: Any = {"type": "string_check", "name": "same", "input": "a", "reference": "a", "operation": "eq"}

CALLS: dict[str, Callable[[Things], Any]] = {
    "files.create": lambda it: it.client.files.create(file=("a.txt", b"x"), purpose="user_data"),
    "files.retrieve": lambda it: it.client.files.retrieve(it.file),
    "files.list": lambda it: it.client.files.list(limit=1),
    "files.content": lambda it: it.client.files.content(it.file),
    "files.retrieve_content": lambda it: it.client.files.retrieve_content(it.file),
    "files.wait_for_processing": lambda it: it.client.files.wait_for_processing(it.file, poll_interval=0.05),
    "files.delete": lambda it: it.client.files.delete(it.client.files.create(file=("a.txt", b"x"), purpose="user_data").id),
    "uploads.create": lambda it: it.client.uploads.create(bytes=3, filename="a.txt", mime_type="text/plain", purpose="user_data"),
    "uploads.parts.create": lambda it: it.client.uploads.parts.create(it.new_upload(), data=b"abc"),
    "uploads.complete": _completed,
    "uploads.cancel": lambda it: it.client.uploads.cancel(it.new_upload()),
    "uploads.upload_file_chunked": lambda it: it.client.uploads.upload_file_chunked(
        file=b"abc", filename="a.txt", bytes=3, mime_type="text/plain", purpose="user_data"
    ),
    "fine_tuning.jobs.create": lambda it: it.client.fine_tuning.jobs.create(model=MODEL, training_file=it.file),
    "fine_tuning.jobs.retrieve": lambda it: it.client.fine_tuning.jobs.retrieve(it.job),
    "fine_tuning.jobs.list": lambda it: it.client.fine_tuning.jobs.list(limit=1),
    "fine_tuning.jobs.cancel": lambda it: it.client.fine_tuning.jobs.cancel(it.new_job()),
    "fine_tuning.jobs.pause": lambda it: it.client.fine_tuning.jobs.pause(it.waiting),
    "fine_tuning.jobs.resume": lambda it: it.client.fine_tuning.jobs.resume(it.waiting),
    "fine_tuning.jobs.list_events": lambda it: it.client.fine_tuning.jobs.list_events(it.job),
    "fine_tuning.jobs.checkpoints.list": lambda it: it.client.fine_tuning.jobs.checkpoints.list(it.job),
    f"{PERMISSIONS}.create": lambda it: it.client.fine_tuning.checkpoints.permissions.create(it.checkpoint, project_ids=[it.project]),
    f"{PERMISSIONS}.list": lambda it: it.client.fine_tuning.checkpoints.permissions.list(it.checkpoint),
    f"{PERMISSIONS}.retrieve": lambda it: it.client.fine_tuning.checkpoints.permissions.retrieve(it.checkpoint),
    f"{PERMISSIONS}.delete": lambda it: it.client.fine_tuning.checkpoints.permissions.delete(
        it.permit(), fine_tuned_model_checkpoint=it.checkpoint
    ),
    "fine_tuning.alpha.graders.run": lambda it: it.client.fine_tuning.alpha.graders.run(grader=GRADER, model_sample="a"),
    "fine_tuning.alpha.graders.validate": lambda it: it.client.fine_tuning.alpha.graders.validate(grader=GRADER),
    "models.list": lambda it: it.client.models.list(),
    "models.retrieve": lambda it: it.client.models.retrieve(it.model),
    "models.delete": lambda it: it.client.models.delete(it.model),
    "completions.create": lambda it: it.client.completions.create(model=MODEL, prompt="A cow", max_tokens=2),
    "embeddings.create": lambda it: it.client.embeddings.create(model=MODEL, input="A cow"),
    "batches.create": lambda it: it.client.batches.create(completion_window="24h", endpoint="/v1/embeddings", input_file_id=it.lines),
    "batches.retrieve": lambda it: it.client.batches.retrieve(CALLS["batches.create"](it).id),
    "batches.list": lambda it: it.client.batches.list(limit=1),
    "batches.cancel": lambda it: it.client.batches.cancel(CALLS["batches.create"](it).id),
    "chat.completions.create": lambda it: it.client.chat.completions.create(**ASKED),
    "chat.completions.parse": lambda it: it.client.chat.completions.parse(**ASKED | {"max_completion_tokens": 40}, response_format=Cow),
    "chat.completions.stream": _streamed,
    "chat.completions.retrieve": lambda it: it.client.chat.completions.retrieve(it.kept),
    "chat.completions.update": lambda it: it.client.chat.completions.update(it.kept, metadata={"a": "b"}),
    "chat.completions.list": lambda it: it.client.chat.completions.list(),
    "chat.completions.messages.list": lambda it: it.client.chat.completions.messages.list(it.kept),
    "chat.completions.delete": lambda it: it.client.chat.completions.delete(it.kept),
}
"""Called in this order: what deletes a thing comes last of those that want it."""


@pytest.fixture(scope="module")
def things(live: Live) -> Things:
    client = live.client(max_retries=0)
    file = client.files.create(file=("tickets.jsonl", ROWS), purpose="fine-tune").id
    row = json.loads(lines("/v1/embeddings"))
    many = b"".join(json.dumps(row | {"custom_id": str(n)}).encode() + b"\n" for n in range(300))  # it is not over when it is cancelled
    batch = client.files.create(file=("lines.jsonl", many), purpose="batch").id
    jobs = [client.fine_tuning.jobs.create(model=MODEL, training_file=file).id for _ in range(2)]
    checkpoint = finish(live, jobs[0])
    with live.service.database.write() as session:
        from luthier.jobs.queue import locked
        from luthier.jobs.states import move

        waiting = locked(session, jobs[1])
        assert waiting is not None
        move(session, waiting, "queued", "It waits.")
    kept = client.chat.completions.create(**ASKED, store=True).id
    model = checkpoint.rpartition(":")[0]
    return Things(client, file, batch, jobs[0], jobs[1], model, checkpoint, project(live, "every"), kept)


def _methods(resource: Any, path: str) -> Iterator[str]:
    """Names of what can be called below a resource of the client."""
    for name in sorted(set(dir(type(resource))) - VIEWS):
        if name.startswith("_"):
            continue
        if inspect.isfunction(inspect.getattr_static(type(resource), name)):
            yield f"{path}.{name}"
        else:
            yield from _methods(getattr(resource, name), f"{path}.{name}")


def test_none_is_forgotten(live: Live) -> None:
    found: set[str] = set()
    for path in RESOURCES:
        resource: Any = live.client()
        for name in path.split("."):
            resource = getattr(resource, name)
        found |= set(_methods(resource, path))
    assert found == set(CALLS)


def test_each_is_answered(things: Things) -> None:
    for name, call in CALLS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the client's own, of methods it still has
            assert call(things), name
