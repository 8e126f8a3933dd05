"""Requests made up from our own document, good and bad: no 5xx, and no answer that the document does not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from luthier.server import document
from server.live import Live, listening

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
EACH = 6
"""Requests for each operation and each of good and bad. More find the same; the bound keeps this a matter of seconds."""


@pytest.fixture(scope="module")
def free(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service that has loaded everything, and whose key may ask as much as it likes."""
    most = 1_000_000
    for live in listening(tmp_path_factory.mktemp("any"), requests_per_minute=most, jobs=most):
        assert live.service.host
        yield live


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["good", "bad"])
def test_every_answer_is_documented(free: Live, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_dict(document.of(free.app))
    headers = {"authorization": f"Bearer {free.secret}"}
    asked = 0
    for found in schema.get_all_operations():
        operation: Any = found.ok()
        try:
            _ask(operation.as_strategy(generation_mode=mode), free.url, headers)
        except Unsatisfiable:  # nothing can be wrong where nothing is asked
            assert mode is GenerationMode.NEGATIVE
            continue
        asked += 1
    assert asked > 30


def _ask(strategy: Any, url: str, headers: dict[str, str]) -> None:
    quick = settings(max_examples=EACH, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))

    @quick
    @given(strategy)
    def every(case: Any) -> None:
        answer = case.call(base_url=url, headers=headers)
        case.validate_response(answer, checks=CHECKS)

    every()
