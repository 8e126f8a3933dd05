"""Whether a run compiles its blocks (``models/regional.py``).

Compiling takes about a minute and makes steps some share faster, so a run has to be long for it to pay; and then both ways are timed, and
the faster one is taken. The choice is kept in the Spec: a run that goes on computes as it began.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from luthier.engine.session import Session
from luthier.models.regional import can_compile, compile_blocks

DEVICES = frozenset({"cuda"})
"""Where it may pay. On a CPU inductor's elementwise kernels lost to ours, and took 1 to 7 s each to be made (docs/log.md)."""

SECONDS = 60.0
"""What compiling takes: two forms of a block, there and back, with triton. Reckoned, not measured."""

WORTH = 10
"""A run has to be so many times as long: a tenth of its time is what compiled blocks may save."""


@dataclass(slots=True, frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        compiled: blocks run compiled. seconds_per_token: of a step, as it will be. told: why, or empty where there was no choice.
    """

    compiled: bool
    seconds_per_token: float
    told: str = ""


def choose(session: Session, seconds_per_token: float, tokens: float, measure: Callable[[], float]) -> Choice:
    """Compile the blocks of a session, or not.

    Args:
        seconds_per_token: as blocks run now. tokens: of the whole run. measure: seconds per token of the way the blocks then run.
    """
    asked = session.train.compile
    if asked != "auto":
        return Choice(asked, seconds_per_token)
    seconds = seconds_per_token * tokens
    if session.model.device.type not in DEVICES:
        return Choice(False, seconds_per_token)
    if not can_compile():
        return Choice(False, seconds_per_token, "Blocks are not compiled: there is no C++ compiler.")
    if seconds < WORTH * SECONDS:
        why = f"Blocks are not compiled: that takes about {SECONDS:.0f} s, and the run about {seconds:,.0f}."
        return Choice(False, seconds_per_token, why)
    start = time.perf_counter()
    compile_blocks(session.model, True)
    try:
        compiled = measure()
    except Exception as error:  # whatever a compiler may say: the run does without
        compile_blocks(session.model, False)
        session.optimiser.forget()
        return Choice(False, seconds_per_token, f"Blocks are not compiled: {type(error).__name__}: {str(error).splitlines()[0]}.")
    took = time.perf_counter() - start
    told = f"{1e3 * compiled:.3f} ms a token instead of {1e3 * seconds_per_token:.3f}, after {took:.0f} s of compiling"
    if compiled < seconds_per_token:
        return Choice(True, compiled, f"Blocks are compiled: {told}.")
    compile_blocks(session.model, False)
    return Choice(False, seconds_per_token, f"Blocks are not compiled: {told}.")
