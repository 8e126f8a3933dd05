"""How many steps fit in the time given: measured on this machine, then kept, so that a run that is resumed goes on to the same end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from luthier.core.files import write_json
from luthier.engine.loop import fit
from luthier.engine.session import Session

PROBE_STEPS = 5
"""Steps timed; the first is left out, it pays for warming up."""

PRETRAIN_SHARE, INSTRUCT_SHARE = 0.80, 0.13
"""Shares of the time; the rest is for held-out looks, checkpoints and the sample texts."""


@dataclass(slots=True, frozen=True)
class Plan:
    """Decided once per work folder.

    Attributes:
        minutes: wall time asked for. pretrain_steps, instruct_steps: optimiser steps of the two phases.
        tokens_per_second: as measured for the first phase when planning.
    """

    minutes: float
    pretrain_steps: int
    instruct_steps: int
    tokens_per_second: float


def seconds_per_step(session: Session) -> tuple[float, float]:
    """Wall seconds and tokens of a step, from a few steps of a session that is then thrown away."""
    steps = list(itertools.islice(fit(session), PROBE_STEPS))[1:]
    return sum(s.seconds for s in steps) / len(steps), sum(s.tokens for s in steps) / len(steps)


def decided(file: Path, *, minutes: float, pretrain: Callable[[], Session], instruct: Callable[[], Session]) -> Plan:
    """The plan in `file`, or one made now by timing a session of each phase. A phase never takes more steps than its session has."""
    if file.exists():
        return Plan(**json.loads(file.read_text()))
    first, second = pretrain(), instruct()
    seconds, tokens = seconds_per_step(first)
    plan = Plan(
        minutes,
        min(first.steps, max(1, int(minutes * 60 * PRETRAIN_SHARE / seconds))),
        min(second.steps, max(1, int(minutes * 60 * INSTRUCT_SHARE / seconds_per_step(second)[0]))),
        round(tokens / seconds, 1),
    )
    write_json(file, asdict(plan))
    return plan
