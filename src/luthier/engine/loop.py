"""The one loop. It hands control back after every step: stopping, pausing and pruning are "stop asking"."""

from __future__ import annotations

from collections.abc import Iterator

from luthier.core.events import Stepped
from luthier.engine.session import Session


def fit(session: Session) -> Iterator[Stepped]:
    """Step until the planned end. The caller decides what happens between steps."""
    try:
        while session.step < session.steps:
            yield session.advance()
    finally:
        session.ahead.close()
