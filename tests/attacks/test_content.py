"""Files whose content is made to hurt: they are taken, looked at within bounds, and told to be bad."""

from __future__ import annotations

import gzip
import io
import time
import zipfile
from typing import Any

import pytest

from server.live import Live
from server.test_files import ROWS

HURTING: dict[str, tuple[str, bytes]] = {
    "a line without end": ("a.jsonl", ROWS + b'{"messages": "' + b"x" * (18 << 20)),
    "a gzip bomb": ("a.jsonl.gz", gzip.compress(b" " * (300 << 20), 1)),
    "gzip in the middle of nothing": ("a.jsonl.gz", gzip.compress(ROWS)[:-20]),
    "100,000 levels": ("a.jsonl", ROWS + b"[" * 100_000 + b"]" * 100_000 + b"\n"),
    "binary": ("a.jsonl", bytes(range(256)) * 100),
    "nothing": ("a.jsonl", b""),
    "not what its name says": ("a.parquet", b"PAR1" + b"\0" * 1000 + b"PAR1"),
}


def zipped() -> bytes:
    """Ten megabytes of nothing in a few bytes."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.jsonl", b" " * (10 << 20))
    return sink.getvalue()


@pytest.mark.parametrize(("name", "content"), [*HURTING.values(), ("a.zip", zipped())], ids=[*HURTING, "a zip"])
def test_bad_content_is_told(live: Live, name: str, content: bytes) -> None:
    with live.http() as http:
        file = http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": (name, content)}).json()["id"]
        report = looked_at(http, file)
        assert report["status"] == "error" and report["ok"] is False and report["report"]["errors"] >= 1
        details = http.get(f"/v1/files/{file}").json()["status_details"]
        assert details and len(details) < 1000 and "/tmp" not in str(report)
        http.delete(f"/v1/files/{file}")


def looked_at(http: Any, file: str) -> Any:
    """The report, once there is one."""
    end = time.monotonic() + 60
    while (report := http.get(f"/v1/files/{file}/report").json())["status"] == "uploaded" and time.monotonic() < end:
        time.sleep(0.05)
    return report
