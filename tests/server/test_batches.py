"""Batches through the real client, answered by the bundled base."""

from __future__ import annotations

import json
import time
from typing import Any

import openai
import pytest

MODEL = "luthier-mini"
BODIES: dict[str, list[dict[str, Any]]] = {
    "/v1/chat/completions": [
        {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3, "stream": True},
        {"model": "none", "messages": [{"role": "user", "content": "Hello"}]},
        {"model": MODEL, "messages": [], "max_tokens": 3},
    ],
    "/v1/completions": [{"model": MODEL, "prompt": ["a", "b"], "max_tokens": 2}],
    "/v1/embeddings": [{"model": MODEL, "input": "a cow"}],
}


def lines(endpoint: str) -> bytes:
    """A file of requests."""
    rows = [{"custom_id": f"c{n}", "method": "POST", "url": endpoint, "body": body} for n, body in enumerate(BODIES[endpoint])]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def ended(client: openai.OpenAI, id: str) -> Any:
    """The batch when it is over."""
    end = time.monotonic() + 60
    while (batch := client.batches.retrieve(id)).status not in ("completed", "failed", "cancelled") and time.monotonic() < end:
        time.sleep(0.05)
    return batch


@pytest.mark.parametrize("endpoint", BODIES)
def test_a_batch_is_answered(client: openai.OpenAI, endpoint: Any) -> None:
    file = client.files.create(file=("lines.jsonl", lines(endpoint)), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"k": "v"})
    assert batch.status == "validating" and batch.metadata == {"k": "v"} and batch.expires_at == batch.created_at + 86400
    done = ended(client, batch.id)
    bad = len(BODIES[endpoint]) - 1
    assert done.status == "completed" and done.completed_at and done.model == MODEL
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (1 + bad, 1, bad)
    (answer,) = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert answer["custom_id"] == "c0" and answer["response"]["status_code"] == 200 and answer["response"]["body"]["model"] == MODEL
    if bad:
        errors = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
        assert [(one["custom_id"], one["response"]["status_code"]) for one in errors] == [("c1", 404), ("c2", 400)]
        assert errors[1]["response"]["body"]["error"]["param"] == "messages"
    assert done.usage.total_tokens > 0
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"
    assert batch.id in [one.id for one in client.batches.list(limit=1)]


def test_a_bad_file_names_its_line(client: openai.OpenAI) -> None:
    file = client.files.create(file=("lines.jsonl", lines("/v1/embeddings") + b"{oops\n"), purpose="batch")
    done = ended(client, client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h").id)
    assert done.status == "failed" and done.errors.data[0].line == 2 and done.output_file_id is None


def test_a_batch_is_cancelled(client: openai.OpenAI) -> None:
    body = {"model": MODEL, "prompt": "a", "max_tokens": 20}
    row = {"method": "POST", "url": "/v1/completions", "body": body}
    content = b"".join(json.dumps(row | {"custom_id": str(n)}).encode() + b"\n" for n in range(3000))
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")
    done = ended(client, batch.id)
    assert done.status == "cancelled" and done.cancelling_at
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)


def test_batches_that_cannot_be(client: openai.OpenAI) -> None:
    other = client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune").id
    good: Any = {"input_file_id": other, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError, match="sent for fine-tune"):
        client.batches.create(**good)
    with pytest.raises(openai.NotFoundError):
        client.batches.create(**good | {"input_file_id": "file-none"})
    for wrong in ({"endpoint": "/v1/responses"}, {"endpoint": "/v1/nothing"}, {"completion_window": "7d"}):
        with pytest.raises(openai.BadRequestError):
            client.batches.create(**good | wrong)
    for call in (client.batches.retrieve, client.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call("batch_none")
