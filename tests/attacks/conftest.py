"""What those who mean harm get: a correct answer, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from server.live import Live, listening


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service with small limits."""
    yield from listening(tmp_path_factory.mktemp("attacked"), file_bytes=20 << 20, body_bytes=1 << 20, idle_seconds=0.5)


@pytest.fixture
def http(live: Live) -> Iterator[httpx2.Client]:
    """Plain HTTP with the owner's key; afterwards nothing may be left of what was refused."""
    before = blobs(live)
    with live.http() as plain:
        yield plain
    assert blobs(live) == before


def blobs(live: Live) -> set[Path]:
    """All files under the blobs, those that are being received too."""
    return {path for path in Path(live.service.settings.blobs).rglob("*") if path.is_file()}


def refused(answer: httpx2.Response, *statuses: int) -> dict[str, str | None]:
    """The error of an answer that must be one, and must tell nothing of our insides."""
    assert answer.status_code in (statuses or (400,)), answer.text
    error: dict[str, str | None] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert not any(word in answer.text for word in ("Traceback", 'File "', "sqlalchemy", "site-packages", "luthier.db"))
    return error
