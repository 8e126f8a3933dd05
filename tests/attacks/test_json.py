"""JSON that is made to hurt."""

from __future__ import annotations

import time

import httpx2
import pytest

from attacks.conftest import refused

JSON = {"content-type": "application/json"}
HURTING = {
    "65 levels": b"[" * 65 + b"]" * 65,
    "100 levels of objects": b'{"a":' * 100 + b"1" + b"}" * 100,
    "100,000 levels": b"[" * 100_000 + b"]" * 100_000,
    "100,000 levels without end": b'{"a":' * 100_000,
    "a number of 500,000 digits": b'{"bytes": ' + b"9" * 500_000 + b"}",
    "a huge exponent": b'{"bytes": 1e999999}',
    "infinity": b'{"bytes": Infinity}',
    "half a pair": b'{"filename": "\\ud800", "purpose": "batch", "bytes": 1, "mime_type": "x"}',
    "NUL": b'{"filename": "a\\u0000b", "purpose": "batch", "bytes": 1, "mime_type": "x"}',
    "not UTF-8": b'{"filename": "\xff"}',
    "UTF-16": '{"filename": "a"}'.encode("utf-16"),
    "two documents": b"{}{}",
    "a comment": b"{/* */}",
    "500,000 keys": b"{" + b",".join(b'"%d":1' % n for n in range(80_000)) + b"}",
    "a key twice, of two kinds": b'{"filename": 1, "filename": [], "purpose": "batch", "bytes": 1, "mime_type": "x"}',
}


@pytest.mark.parametrize("body", HURTING.values(), ids=HURTING)
def test_json_is_refused_fast(http: httpx2.Client, body: bytes) -> None:
    begun = time.monotonic()
    refused(http.post("/v1/uploads", content=body, headers=JSON))
    assert time.monotonic() - begun < 5


def test_compressed_bodies_are_not_unpacked(http: httpx2.Client) -> None:
    import gzip

    bomb = gzip.compress(b" " * (50 << 20))
    for encoding in ("gzip", "deflate", "br", "gzip, gzip"):
        error = refused(http.post("/v1/uploads", content=bomb, headers=JSON | {"content-encoding": encoding}), 415)
        assert error["code"] == "unsupported_encoding"


def test_what_is_only_near_the_limit_is_read(http: httpx2.Client) -> None:
    body = b'{"x": ' + b"[" * 62 + b"]" * 62 + b', "filename": 1}'
    error = refused(http.post("/v1/uploads", content=body, headers=JSON))
    assert error["param"] == "filename"
