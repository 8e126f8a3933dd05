"""``/v1/fine_tuning/alpha/graders``: would a grader do, and what would it give? Nothing is kept."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response

from luthier.evaluation.graders import grader
from luthier.evaluation.graders.multi import together
from luthier.jobs.asked_grades import plain_grader
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.errors import invalid
from luthier.server.wire import graders as wire
from luthier.server.wire._base import ignored_by, reply
from luthier.server.wire.error import errors

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders", tags=["Fine-tuning"], route_class=Route)

MOST = {"grader": 20_000, "item": 100_000}
"""Characters of each as JSON. It is graded while the caller waits, and every label and every field costs time."""


@router.post("/validate", response_model=wire.GraderValidated, responses=errors())
def validate(body: wire.ValidateGrader, _: Annotated[Caller, allowed("grader.validate")]) -> Response:
    """Say whether a job would take this grader: it comes back as it was sent, or 400 tells what is wrong."""
    _sized("grader", body.grader)
    plain_grader(body.grader, "grader")
    return reply(wire.GraderValidated(grader=body.grader, luthier=ignored_by(body)))


@router.post("/run", response_model=wire.GraderRun, responses=errors())
def run(body: wire.RunGrader, _: Annotated[Caller, allowed("grader.run")]) -> Response:
    """Grade one answer, as a job would."""
    _sized("grader", body.grader)
    _sized("item", body.item)
    plain = plain_grader(body.grader, "grader")
    start = time.perf_counter()
    parts = plain["graders"] if plain["type"] == "multi" else {}
    below = {part: grader(one)(body.item, body.model_sample) for part, one in parts.items()}
    reward = together(plain, below) if below else grader(plain)(body.item, body.model_sample)
    seconds = time.perf_counter() - start
    name = body.grader.get("name")
    kind = str(plain["type"])
    told = wire.GraderMetadata(name=name if isinstance(name, str) else kind, type=kind, execution_time=seconds, scores=below)
    return reply(wire.GraderRun(reward=reward, metadata=told, sub_rewards=below, luthier=ignored_by(body)))


def _sized(name: str, said: dict[str, Any]) -> None:
    most = MOST[name]
    if len(json.dumps(said, ensure_ascii=False)) > most:
        raise invalid(f"Invalid '{name}': it has at most {most:,} characters as JSON.", param=name, code="invalid_value")
