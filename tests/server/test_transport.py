"""What holds for every request: ids, errors in the wire's shape, keys, hosts, sizes, limits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from sqlalchemy import update

from luthier.security import keys
from luthier.security.actor import actor_of
from luthier.store.tables.tenants import Key
from server.live import Live, listening


def fault(answer: httpx2.Response) -> dict[str, str | None]:
    """The error of an answer, which has exactly the four fields of the wire."""
    error: dict[str, str | None] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["content-type"] == "application/json"
    return error


def another_key(live: Live, **changes: object) -> str:
    """A key like the first, changed."""
    with live.service.database.write() as session:
        actor = actor_of(session, live.secret)
        made = keys.create(session, actor, user_id=actor.user_id, project_id=actor.project_id, name="other")
        session.flush()
        session.execute(update(Key).where(Key.id == made.key.id).values(**changes))
    return made.secret


def test_health_needs_no_key(live: Live) -> None:
    answer = httpx2.get(f"{live.url}/healthz")
    assert answer.status_code == 200 and answer.json()["status"] == "ok"


def test_no_such_path_and_no_such_method(http: httpx2.Client) -> None:
    assert fault(http.get("/v1/nothing"))["code"] == "unknown_url"
    answer = http.put("/v1/files")
    assert answer.status_code == 405 and fault(answer)["code"] == "method_not_allowed"
    assert http.get("/v1/files/").status_code == 404


@pytest.mark.parametrize(
    ("header", "code"),
    [(None, "no_key"), ("Bearer lk-wrong", "invalid_api_key"), ("Basic bGs6", "no_key"), ("Bearer", "no_key")],
)
def test_without_a_key_nothing_is_told(live: Live, header: str | None, code: str) -> None:
    for path in ("/v1/files", "/v1/nothing", "/metrics"):
        answer = httpx2.get(live.url + path, headers={"authorization": header} if header else {})
        assert answer.status_code == 401 and fault(answer)["code"] == code and answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("change", "code"), [({"expires_at": 1.0}, "expired_key"), ({"revoked_at": 1.0}, "revoked_key")])
def test_keys_that_are_over(live: Live, change: dict[str, float], code: str) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        live.client(another_key(live, **change)).files.list()
    assert caught.value.code == code


def test_a_key_for_less_may_less(live: Live) -> None:
    client = live.client(another_key(live, scopes=["file.read"]))
    client.files.list()
    with pytest.raises(openai.PermissionDeniedError, match=r"made for file\.read only"):
        client.files.create(file=("a", b"a"), purpose="user_data")


def test_organisation_and_project_headers(live: Live) -> None:
    live.client(organization="default", project="default").files.list()
    with pytest.raises(openai.AuthenticationError, match="does not belong to"):
        live.client(project="another").files.list()


def test_limits_are_told_and_kept(live: Live) -> None:
    secret = another_key(live, limits={"requests_per_minute": 2})
    with live.http(secret) as http:
        first = http.get("/v1/files")
        assert first.headers["x-ratelimit-limit-requests"] == "2" and first.headers["x-ratelimit-remaining-requests"] == "1"
        http.get("/v1/files")
        answer = http.get("/v1/files")
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1 and int(answer.headers["retry-after-ms"]) > 0
    assert (fault(answer)["type"], fault(answer)["code"]) == ("rate_limit_error", "rate_limit_exceeded")


def test_a_full_project_is_not_asked_again(live: Live) -> None:
    client = live.client(another_key(live, limits={"storage_bytes": 1}), max_retries=5)
    with pytest.raises(openai.RateLimitError) as caught:
        client.files.create(file=("a", b"ab"), purpose="user_data")
    assert caught.value.code == "quota" and caught.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost@evil.example"])
def test_other_hosts(http: httpx2.Client, host: str) -> None:
    answer = http.get("/healthz", headers={"host": host})
    assert answer.status_code == 421 and fault(answer)["code"] == "wrong_host"


def test_names_of_this_machine(http: httpx2.Client) -> None:
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "localhost."):
        assert http.get("/healthz", headers={"host": host}).status_code == 200


def test_foreign_pages(http: httpx2.Client, live: Live) -> None:
    answer = http.get("/v1/files", headers={"origin": "https://evil.example"})
    assert answer.status_code == 403 and fault(answer)["code"] == "wrong_origin"
    assert http.get("/v1/files", headers={"origin": "null"}).status_code == 403
    assert http.get("/v1/files", headers={"origin": live.url}).status_code == 200


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "missing_body", None),
        (b"{", "invalid_json", None),
        (b"[]", "invalid_type", None),
        (b'{"filename": "a"}', "missing_required_parameter", "purpose"),
        (b'{"filename": "a", "purpose": "batch", "bytes": "3", "mime_type": "x"}', "invalid_type", "bytes"),
        (b'{"filename": "a", "purpose": "batch", "bytes": 0, "mime_type": "x"}', "invalid_value", "bytes"),
        (b'{"filename": "a", "purpose": "batch", "bytes": NaN, "mime_type": "x"}', "invalid_json", None),
        (
            b'{"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "x", "expires_after": {"anchor": "now"}}',
            "invalid_value",
            "expires_after.anchor",
        ),
    ],
)
def test_bodies_that_do_not_fit(http: httpx2.Client, body: bytes, code: str, param: str | None) -> None:
    answer = http.post("/v1/uploads", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = fault(answer)
    assert (error["code"], error["param"]) == (code, param)


def test_json_said_to_be_something_else(http: httpx2.Client) -> None:
    answer = http.post("/v1/uploads", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 400 and "application/json" in str(fault(answer)["message"])


def test_an_empty_body_of_json_is_not_read(client: openai.OpenAI, http: httpx2.Client) -> None:
    upload = client.uploads.create(filename="a", purpose="batch", bytes=1, mime_type="x")
    answer = http.post(f"/v1/uploads/{upload.id}/cancel", headers={"content-type": "application/json"})
    assert answer.status_code == 200


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=99999999", "order=up", "after=file-none"])
def test_questions_that_do_not_fit(http: httpx2.Client, query: str) -> None:
    answer = http.get(f"/v1/files?{query}")
    assert answer.status_code == 400 and fault(answer)["param"] == query.split("=")[0]


def test_the_page_of_numbers(http: httpx2.Client) -> None:
    http.get("/v1/files/file-none")
    page = http.get("/metrics").text
    assert 'luthier_requests_total{method="GET",route="/v1/files/{file_id}",status="404"}' in page
    assert "luthier_files_bytes" in page and "file-none" not in page


def test_the_document_names_every_path_and_no_422(http: httpx2.Client) -> None:
    document = http.get("/openapi.json").json()
    assert "/v1/files/{file_id}/content" in document["paths"]
    assert "422" not in json.dumps(document["paths"])


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Live]:
    yield from listening(tmp_path, file_bytes=1000, body_bytes=2000, idle_seconds=0.3, allowed_origins="https://page.example")


def test_sizes_are_kept_before_anything_is_read(small: Live) -> None:
    with small.http() as http:
        answer = http.post("/v1/uploads", content=b"{" + b" " * 3000, headers={"content-type": "application/json"})
        assert answer.status_code == 413 and fault(answer)["code"] == "request_too_large"

        def trickle() -> Iterator[bytes]:
            for _ in range(30):
                yield b" " * 100

        answer = http.post("/v1/uploads", content=trickle(), headers={"content-type": "application/json"})
        assert answer.status_code == 413
        answer = http.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", b"x" * 1001)})
        assert answer.status_code == 413 and fault(answer)["code"] == "file_too_large"
    assert not [path for path in Path(small.service.settings.blobs).rglob("*") if path.is_file()]


def test_a_page_that_was_named_may_call(small: Live) -> None:
    answer = httpx2.options(f"{small.url}/v1/files", headers={"origin": "https://page.example", "access-control-request-method": "GET"})
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == "https://page.example"
    with small.http() as http:
        assert (
            http.get("/v1/files", headers={"origin": "https://page.example"}).headers["access-control-allow-origin"]
            == "https://page.example"
        )


def test_whoever_stops_in_the_middle_is_not_waited_for(small: Live) -> None:
    import socket

    host, port = small.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as line:
        head = f"POST /v1/uploads HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {small.secret}\r\nContent-Type: application/json\r\n"
        line.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
        answer = line.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408") and b'"code":"timeout"' in answer
