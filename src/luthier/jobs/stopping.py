"""Asked to stop: finish the step, save, leave. Asked twice: leave at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Asked:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.to_stop = False

    def hear(self, number: int, frame: Any) -> None:
        """Signal handler: remember the first request, raise on the second."""
        if self.to_stop:
            raise KeyboardInterrupt
        self.to_stop = True


@contextmanager
def listening() -> Iterator[Asked]:
    """Within the block SIGINT and SIGTERM only set ``to_stop``. Outside the main thread Python delivers no signals: nothing changes."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked.hear) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
