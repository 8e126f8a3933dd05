"""Gates by themselves, around applications that misbehave."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from luthier.core.errors import ResultError, StorageError
from luthier.server import logs
from luthier.server.errors import from_luthier
from luthier.server.gates.patience import Patience
from luthier.server.gates.sizes import Sizes
from luthier.server.gates.trace import Trace

SECRET = "a prompt that nobody may see"


Answer = tuple[int, dict[str, str], bytes]


def passed(app: Any, *, body: bytes = b"", path: str = "/v1/x", headers: tuple[tuple[bytes, bytes], ...] = ()) -> Answer:
    """Status, headers and body of the answer to one request."""
    scope = {"type": "http", "method": "POST", "path": path, "query_string": SECRET.encode(), "headers": list(headers), "state": {}}
    said: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(app(scope, receive, send))
    return said[0]["status"], {k.decode(): v.decode() for k, v in said[0]["headers"]}, b"".join(m.get("body", b"") for m in said)


async def answering(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})


async def exploding(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("at /some/place with a secret")


async def sleeping(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(60)


async def streaming(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b"late"})


def test_a_bug_is_told_without_our_insides(caplog: pytest.LogCaptureFixture) -> None:
    status, headers, body = passed(Trace(exploding), body=SECRET.encode())
    error = json.loads(body)["error"]
    assert (status, error["type"], error["code"]) == (500, "server_error", "bug")
    assert headers["x-request-id"] in error["message"] and b"secret" not in body and b"RuntimeError" not in body
    assert "RuntimeError" in caplog.text  # where only who runs it can read it


def test_every_answer_has_its_marks() -> None:
    _, headers, _ = passed(Trace(answering))
    assert (
        headers["x-request-id"].startswith("req_")
        and headers["x-content-type-options"] == "nosniff"
        and int(headers["openai-processing-ms"]) >= 0
    )


def test_the_log_has_no_words_of_users(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "luthier.server")
    passed(Trace(answering), body=SECRET.encode(), path="/v1/x\nfake line", headers=((b"authorization", b"Bearer lk-secret"),))
    for how in (logs._Json(), logs._Words()):
        lines = [how.format(record) for record in caplog.records]
        assert lines and all("\n" not in line for line in lines)
        assert not any(word in line for line in lines for word in (SECRET, "lk-secret"))
    content = json.loads(logs._Json().format(caplog.records[-1]))
    assert content["status"] == 200 and content["message"] == "request" and content["request_id"].startswith("req_")


def test_what_takes_too_long_is_ended() -> None:
    status, headers, body = passed(Patience(sleeping, 0.05))
    assert status == 503 and json.loads(body)["error"]["code"] == "timeout" and headers["retry-after"] == "5"


def test_a_stream_that_has_begun_may_go_on() -> None:
    assert passed(Patience(streaming, 0.05))[2] == b"late"


@pytest.mark.parametrize(("length", "status"), [(b"10", 200), (b"11", 413), (b"-1", 400), (b"1e1", 400), ("٣".encode(), 400)])
def test_a_length_is_a_number_within_the_limit(length: bytes, status: int) -> None:
    gate = Sizes(answering, lambda method, path: 10, 1.0)
    assert passed(gate, headers=((b"content-length", length),))[0] == status


def test_trouble_inside_is_told_to_the_log_only(caplog: pytest.LogCaptureFixture) -> None:
    for error in (
        StorageError("No space left.", where="/var/lib/luthier/blobs"),
        ResultError("KeyError: 'x'.", code="answer_failed"),
    ):
        told = from_luthier(error)
        assert told.status_code >= 500 and "/var" not in told.message and "KeyError" not in told.message
        assert str(error) in caplog.text
