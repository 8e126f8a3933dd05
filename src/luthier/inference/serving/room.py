"""Who is in the room, who waits outside, and what is read in the next pass.

Rows that write read one token each. Beside them prompts are read in pieces: half of a piece is for who waits longest, the rest for the
shortest. So a long prompt holds nobody up for longer than a piece takes, and is not held up itself. Who does not fit into the pool waits;
who never will is refused; and when those inside outgrow it, the one who came last goes out, keeps what it has written, and reads it later.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from luthier.core.errors import ResultError
from luthier.inference.serving.places import Known, Node
from luthier.inference.serving.rows import Row
from luthier.inference.serving.turns import Turns
from luthier.models.pool import Pool

MOST_ROWS = 64
"""Rows that are answered at once: beyond it a step's matmuls are at full rate on a CPU, and each row only waits longer for its token."""

BESIDE_WRITERS = 256
"""Tokens of prompts read in a pass while others write: on two cores a 135 M model reads them in about 0.1 s, three to five steps."""

ALONE = 1024
"""Tokens of prompts read in a pass while nobody writes; more saves nothing, and newcomers wait for it."""

LONG_LINE = 100
"""Rows outside from which on they are not looked through at each step; and then at every so many-th."""

AHEAD = 32
"""Tokens a row is sure to find room for when it comes in. All of its limit would keep most of the pool idle: answers mostly end early."""


@dataclass(eq=False, slots=True)
class Part:
    """What one row reads in a pass. planted: the new node of the tree, where there is one."""

    row: Row
    count: int
    planted: Node | None = None


@dataclass
class Room:
    """The rows of one base.

    Attributes:
        inside: rows that have places, in the order in which they came. outside: those that wait. read: tokens planned so far; reused: of
            prompts, how many were known already. whole: rows are read in one piece, because what stands behind a token matters too.
    """

    pool: Pool
    most_rows: int = MOST_ROWS
    whole: bool = False
    inside: list[Row] = field(default_factory=list)
    outside: Turns[Row] = field(default_factory=Turns)
    read: int = 0
    reused: int = 0
    _looks: int = 0

    def __post_init__(self) -> None:
        self.known = Known(self.pool)

    def enter(self, row: Row) -> None:
        """Wait for a turn."""
        self.outside.add(row.question.asked.key, row)

    def leave(self, row: Row) -> None:
        """Go, and leave what was read for others."""
        row.leave(self.known)
        self.inside.remove(row)

    def throw_out(self, row: Row) -> None:
        """Go, and leave nothing but what others know already."""
        row.restart(self.known)
        self.inside.remove(row)

    def ended(self) -> list[Row]:
        """Rows for which nobody waits any more, or whose time is up; they are out. A long line is looked through now and then only."""
        now = time.monotonic()
        gone = [row for row in self.inside if row.question.going or row.question.late(now)]
        for row in gone:
            self.leave(row)
        self._looks += 1
        if len(self.outside) <= LONG_LINE or self._looks % LONG_LINE == 0:
            gone += self.outside.leave(lambda row: row.question.going or row.question.late(now))
        return gone

    def clear(self) -> list[Row]:
        """Everybody goes, and nothing is known any more. Returns who was here."""
        rows = [*self.inside, *self.outside]
        self.inside, self.outside = [], Turns()
        self.pool.give_all()
        self.known = Known(self.pool)
        return rows

    def admit(self) -> None:
        """Let in who fits, in turn. Nobody overtakes one who does not fit: long prompts would never come in."""
        while len(self.inside) < self.most_rows and (row := self.outside.next()) is not None and self._fits(row):
            self.outside.took()
            self.inside.append(row)

    def plan(self) -> list[Part]:
        """What is read now; the places are taken. Empty when nobody is inside."""
        while self.inside:
            parts = self._writers()
            if parts := parts + self._readers(BESIDE_WRITERS if parts else ALONE):
                return parts
            self.send_out(self.inside[-1])
        return []

    def send_out(self, row: Row) -> None:
        """Back to the head of its line; what it has written stays."""
        row.restart(self.known)
        self.inside.remove(row)
        self.outside.add(row.question.asked.key, row, first=True)

    def _writers(self) -> list[Part]:
        """A token for every row that writes; the latest go out when there is no place for all."""
        while True:
            writers = [row for row in self.inside if _writes(row)]
            if self.known.make_room(len(writers)):
                return [part for row in writers if (part := self._part(row, 1))]
            self.send_out(self.inside[-1])

    def _readers(self, budget: int) -> list[Part]:
        readers = [row for row in self.inside if not _writes(row)]
        if not readers:
            return []
        oldest, others = readers[0], sorted(readers[1:], key=lambda row: row.unread)
        reserved, parts = min(oldest.unread, budget // 2), list[Part]()
        for row in [*others, oldest]:
            self._follow(row)
            count = min(row.unread, budget - (0 if row is oldest else reserved))
            if self.whole and count < row.unread:
                count = 0 if parts or row is not oldest else row.unread
            if count > 0 and (part := self._part(row, count)):
                parts.append(part)
                budget -= part.count
        return parts

    def _part(self, row: Row, count: int) -> Part | None:
        if not self.known.make_room(count):
            count = 0 if self.whole else self.pool.free
        places = self.pool.take(count) if count else None
        if places is None:
            return None
        if not _writes(row):
            self.outside.served(row.question.asked.key, read=count)
            self.read += count
        return Part(row, count, row.plan(self.known, places))

    def _follow(self, row: Row) -> None:
        found = row.follow(self.known)
        self.reused += found
        if row.written == 0 and row.voice is not None and row.voice.index == 0:
            row.question.answering.usage.cached += found

    def _fits(self, row: Row) -> bool:
        """Whether the pool holds the row's prompt and a beginning of its answer beside what those inside are promised."""
        node, found = self.known.follow(self.known.root(row.owner), row.tokens, 0, len(row.tokens) - 1 if row.shares else 0)
        self.known.hold(node)  # what is known of it costs nothing more, and may not be counted as loose
        needed = len(row.tokens) - sum(map(len, found)) + min(AHEAD, max(row.left, 0))
        promised = sum(max(other.unread, 1) + min(AHEAD, max(other.left, 0)) for other in self.inside)
        fits = needed + promised <= self.pool.free + self.known.loose
        self.known.release(node)
        return fits or not self.inside


def _writes(row: Row) -> bool:
    """One token is read, and the next drawn from it."""
    return row.unread == 1 and row.known > 0


def never_fits(pool: Pool, tokens: int) -> ResultError | None:
    """The refusal of a prompt that even an empty pool has no room for."""
    if tokens + 1 <= pool.size:
        return None
    what = f"The prompt has {tokens:,} tokens, and the service keeps keys and values of {pool.size:,} at most."
    return ResultError(what, remedy="Shorten it, or give the service more memory for keys and values.", code="never_fits")
