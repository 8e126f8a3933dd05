"""Ids, paths, hosts and headers that are made to hurt."""

from __future__ import annotations

import re
import socket

import httpx2
import pytest

from attacks.conftest import refused
from attacks.raw import head, spoken
from server.live import Live

UP = "..%2f..%2fetc%2fpasswd"
IDS = [UP, "%2e%2e%2f", "file-%00", "file-%0d%0aSet-Cookie:x", "file-'%20OR%201=1--", "%ff%fe", "x" * 2000, "%F0%9F%98%80", "*"]
WAYS = (("GET", "/v1/files/{}"), ("GET", "/v1/files/{}/content"), ("DELETE", "/v1/files/{}"), ("POST", "/v1/uploads/{}/cancel"))
QUERIES = ["after=%00", "after=%0d%0a", "purpose=%00", "after=" + "x" * 500, "limit=1e3", "limit=%00", "order[]=asc"]
NO_HTTP = [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100, b"GET " + b"/" * 100_000, b"A" * 70_000]


@pytest.mark.parametrize("id", IDS)
def test_ids_that_are_no_ids(http: httpx2.Client, id: str) -> None:
    for method, path in WAYS:
        answer = http.request(method, path.format(id))
        refused(answer, 404, 400)
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "query", ["after=%00", "after=%0d%0a", "purpose=%00", "after=" + "x" * 500, "limit=1e3", "limit=%00", "order[]=asc"]
)
def test_questions_that_are_made_to_hurt(http: httpx2.Client, query: str) -> None:
    answer = http.get(f"/v1/files?{query}")
    assert answer.status_code in (200, 400)


SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
TWO_WAYS = [
    ("Content-Length: 4", "Transfer-Encoding: chunked"),
    ("Content-Length: 4", "Content-Length: 44"),
    ("Content-Length: 4, 44",),
    ("Content-Length: +4",),
    ("Content-Length: -4",),
    ("Content-Length: 0x4",),
    ("Transfer-Encoding: xchunked",),
    ("Transfer-Encoding: chunked, identity",),
    ("Transfer-Encoding: identity, chunked", "Content-Length: 4"),
    ("Transfer-Encoding : chunked",),
    (" Transfer-Encoding: chunked",),
    ("X: y\nContent-Length: 4",),
    ("X: y\r\n Content-Length: 4", "Content-Length: 0"),
]


@pytest.mark.parametrize("headers", TWO_WAYS, ids=["; ".join(h).replace("\r", "").replace("\n", " ") for h in TWO_WAYS])
def test_a_second_request_is_never_hidden_in_the_first(live: Live, headers: tuple[str, ...]) -> None:
    """Whatever the first is answered with, the hidden one must not be answered as if a proxy had passed it on unread."""
    first = head(live, "POST /v1/uploads HTTP/1.1", *headers, "Content-Type: application/json")
    said = spoken(live, first + b"0\r\n\r\n" + SMUGGLED)
    assert re.findall(rb"HTTP/1\.1 (\d+)", said) in ([b"400"], [b"401"], [b"408"], [b"400", b"400"]), said
    assert b"bad_http" in said or said.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("raw", NO_HTTP)
def test_what_is_no_http_is_answered_like_everything(live: Live, raw: bytes) -> None:
    said = spoken(live, raw)
    assert said.startswith(b"HTTP/1.1 4") and b'"error"' in said


def test_no_host_and_two_hosts(live: Live) -> None:
    said = spoken(live, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert b" 421 " in said.split(b"\r\n")[0]
    said = spoken(live, f"GET /healthz HTTP/1.1\r\nHost: {live.url.removeprefix('http://')}\r\nHost: evil.example\r\n\r\n".encode())
    assert b" 400 " in said.split(b"\r\n")[0] or b" 421 " in said.split(b"\r\n")[0]


def test_an_absolute_address_does_not_change_the_host(live: Live) -> None:
    said = spoken(live, head(live, "GET http://evil.example/v1/files HTTP/1.1", "Connection: close"))
    assert b" 404 " in said.split(b"\r\n")[0] or b" 400 " in said.split(b"\r\n")[0]


def test_headers_of_ours_cannot_be_written_by_clients(http: httpx2.Client) -> None:
    answer = http.get("/healthz", headers={"x-request-id": "req_mine", "x-client-request-id": "a b<script>"})
    assert answer.headers["x-request-id"] != "req_mine"


def test_a_head_that_never_ends_is_not_waited_for(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.server.run.HEAD_SECONDS", 0.2)
    host, port = live.url.removeprefix("http://").split(":")
    for said in (b"", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "):
        with socket.create_connection((host, int(port)), timeout=5) as line:
            line.sendall(said)
            assert line.recv(100) == b""
