"""Whose turn it is: rows wait in a line for each key, and the key that was served least is next.

Each key has a count of tokens read and written for it (a virtual token counter, Sheng et al., arXiv 2401.00588, algorithm 2). Who comes
after a pause begins at the least count of those who wait, or of who left last, so that nobody saves up turns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

WRITTEN = 2.0
"""A written token counts as so many read ones; it costs more, as the paper has it (there 2 to 1)."""

Waiting = TypeVar("Waiting")


class Turns(Generic[Waiting]):
    """Lines by key."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Waiting]] = {}
        self._served: dict[str, float] = {}
        self._floor = 0.0  # the count of whoever was next last time: who comes anew begins there

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Waiting]:
        return (waiting for line in self._lines.values() for waiting in line)

    def add(self, key: str, waiting: Waiting, *, first: bool = False) -> None:
        """Take a place in the line of `key`; `first` is for who was sent back."""
        if key not in self._lines:
            self._served[key] = max(self._served.get(key, 0.0), self._floor)
        line = self._lines.setdefault(key, deque())
        (line.appendleft if first else line.append)(waiting)

    def next(self) -> Waiting | None:
        """Who is next; stays in line until `took`."""
        key = self._next_key()
        return None if key is None else self._lines[key][0]

    def took(self) -> None:
        """Whoever is next leaves the line."""
        key = self._next_key()
        assert key is not None
        self._lines[key].popleft()
        self._floor = max(self._floor, self._served[key])
        self._tidy()

    def served(self, key: str, read: int = 0, written: int = 0) -> None:
        """Count what was done for `key`."""
        self._served[key] = self._served.get(key, 0.0) + read + WRITTEN * written

    def leave(self, going: Callable[[Waiting], bool]) -> list[Waiting]:
        """Take out of the lines whoever is `going`."""
        gone = [waiting for waiting in self if going(waiting)]
        if not gone:
            return gone
        for key, line in self._lines.items():
            self._lines[key] = deque(waiting for waiting in line if waiting not in gone)
        self._tidy()
        return gone

    def _next_key(self) -> str | None:
        return min((key for key, line in self._lines.items() if line), key=lambda key: self._served[key], default=None)

    def _tidy(self) -> None:
        """Keys come and go without end: one without a line is remembered only while its count says more than the floor."""
        self._lines = {key: line for key, line in self._lines.items() if line}
        if len(self._served) > 2 * len(self._lines) + 64:
            self._served = {key: count for key, count in self._served.items() if key in self._lines or count > self._floor}
