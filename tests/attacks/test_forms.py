"""Forms that are damaged or made to hurt."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx2
import pytest

from attacks.conftest import refused
from attacks.raw import head, spoken
from server.live import Live

FORM = {"content-type": "multipart/form-data; boundary=b"}
PURPOSE = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nabc\r\n'
END = b"--b--\r\n"

DAMAGED = {
    "nothing": b"",
    "no boundary": b"hello",
    "cut in a header": PURPOSE + FILE[:40],
    "cut in the file": PURPOSE + FILE[:-3],
    "no last boundary": PURPOSE + FILE,
    "a part without a name": b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END,
    "a part without headers": b"--b\r\n\r\nx\r\n" + END,
    "a header without a colon": b"--b\r\nbroken\r\n\r\nx\r\n" + END,
    "another boundary": (PURPOSE + FILE + END).replace(b"--b", b"--c"),
    "a header without end": b"--b\r\nContent-Disposition: form-data; name=" + b"x" * 100_000,
    "many headers": b"--b\r\n" + b"X-Y: z\r\n" * 10_000 + b"\r\n",
    "many parts": b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' * 1000 + END,
    "a long field": PURPOSE.replace(b"user_data", b"x" * 100_000) + FILE + END,
    "an encoded part": FILE.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + END,
    "no file": PURPOSE + END,
    "a file that is a field": PURPOSE + FILE.replace(b'; filename="a.txt"', b"") + END,
    "two files": PURPOSE + FILE + FILE + END,
    "no purpose": FILE + END,
    "a field with NUL": PURPOSE.replace(b"user_data", b"user\0data") + FILE + END,
    "a field that is not UTF-8": PURPOSE.replace(b"user_data", b"\xff\xfe") + FILE + END,
}


@pytest.mark.parametrize("body", DAMAGED.values(), ids=DAMAGED)
def test_damaged_forms(http: httpx2.Client, body: bytes) -> None:
    refused(http.post("/v1/files", content=body, headers=FORM))


KINDS = [
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=" + "x" * 300,
    "multipart/mixed; boundary=b",
    "",
]


@pytest.mark.parametrize("kind", KINDS)
def test_forms_that_say_they_are_none(http: httpx2.Client, kind: str) -> None:
    refused(http.post("/v1/files", content=PURPOSE + FILE + END, headers={"content-type": kind}))


NAMES = ["../../etc/passwd", "/etc/passwd", "..\\..\\boot.ini", "a\r\nSet-Cookie: x=1", "a\0b", "", "x" * 300, "..", "\U0001f600" * 70]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_no_names(http: httpx2.Client, name: str) -> None:
    if "\r" not in name:  # in a form that would be the end of the header
        body = PURPOSE + FILE.replace(b"a.txt", name.encode()) + END
        refused(http.post("/v1/files", content=body, headers=FORM))
    said = {"filename": name, "purpose": "batch", "bytes": 1, "mime_type": "x"}
    assert refused(http.post("/v1/uploads", json=said))["param"] == ("filename" if "\0" not in name else None)


def test_a_wrong_purpose_is_refused_before_the_file_is_read(http: httpx2.Client) -> None:
    for purpose in ("fine_tune", "", "batch_output", "'; DROP TABLE files; --"):
        assert refused(http.post("/v1/files", data={"purpose": purpose}, files={"file": ("a.txt", b"abc")}))["code"] == "bad_purpose"
    late = FILE + PURPOSE.replace(b"user_data", b"fine_tune") + END
    assert refused(http.post("/v1/files", content=late, headers=FORM))["code"] == "bad_purpose"


def test_more_than_is_allowed_with_and_without_a_length(http: httpx2.Client, live: Live) -> None:
    def endless() -> Iterator[bytes]:
        yield PURPOSE + FILE[:-5]
        for _ in range(1000):
            yield b"x" * (1 << 20)

    error = refused(http.post("/v1/files", content=endless(), headers=FORM), 413)
    assert error["code"] in ("file_too_large", "request_too_large")
    said = spoken(live, head(live, "POST /v1/files HTTP/1.1", f"Content-Type: {FORM['content-type']}", f"Content-Length: {10**15}"))
    assert said.startswith(b"HTTP/1.1 413") and b"connection: close" in said


def test_whoever_leaves_in_the_middle_leaves_nothing(http: httpx2.Client) -> None:
    def leaving() -> Iterator[bytes]:
        yield PURPOSE + FILE[:-5] + b"x" * (3 << 20)
        time.sleep(0.2)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        http.post("/v1/files", content=leaving(), headers=FORM)
    time.sleep(0.3)


def test_a_length_that_lies(http: httpx2.Client, live: Live) -> None:
    """Less comes than was said: the service waits `idle_seconds` and gives up."""
    body = PURPOSE + FILE + END
    first = head(live, "POST /v1/files HTTP/1.1", f"Content-Type: {FORM['content-type']}", f"Content-Length: {len(body) + 10}")
    said = spoken(live, first + body)
    assert said.startswith(b"HTTP/1.1 408") and b'"code":"timeout"' in said
