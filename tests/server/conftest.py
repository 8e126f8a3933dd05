"""What the tests of the wire ask for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import httpx2
import openai
import pytest

from server.live import Live, listening


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One service for all tests that do not mind each other."""
    folder = tmp_path_factory.mktemp("service")
    before, os.environ["LUTHIER_HOME"] = os.environ.get("LUTHIER_HOME"), str(folder)
    yield from listening(folder)
    os.environ.pop("LUTHIER_HOME")
    if before:
        os.environ["LUTHIER_HOME"] = before


@pytest.fixture(scope="session")
def client(live: Live) -> openai.OpenAI:
    """The unmodified client, with the owner's key. It would retry what fails with 5xx; here that is an error at once."""
    return live.client(max_retries=0)


@pytest.fixture(scope="session")
def http(live: Live) -> Iterator[httpx2.Client]:
    """Plain HTTP with the owner's key."""
    with live.http() as plain:
        yield plain
