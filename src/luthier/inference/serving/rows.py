"""What is on its way: a question, and a row for each of its answers.

A row is its tokens, prompt and answer, and how many of them are known: their keys and values are in the pool, or will be after this pass.

    tokens  [prompt ................][written ......]
    places  [in the tree .....][own ..............]
                                                 ^ known: what is behind it is read next; when nothing is left, a token is drawn
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from luthier.inference.serving.ask import Answering, Asked, TokenInfo
from luthier.inference.serving.drawing import Drawing
from luthier.inference.serving.places import Known, Node
from luthier.inference.serving.voice import Voice
from luthier.models.pool import Places

Reads = Literal["last", "every", "mean"]
"""Which states a row is read for: the last one, to write on; every one, for a prompt's log-probabilities; all of them, for their mean."""


@dataclass(eq=False)
class Question:
    """A request that was understood.

    Attributes:
        prompt: token ids; text: as it was given, for an echo. owner: the adapter that answers; None is the base.
        limit: most tokens of an answer. ends: tokens that end one. left: rows that have not ended. deadline: monotonic seconds, or None.
    """

    asked: Asked
    answering: Answering
    prompt: list[int]
    owner: str | None
    limit: int
    ends: frozenset[int] = frozenset()
    text: str = ""
    left: int = 0
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.asked.seconds is not None:
            self.deadline = time.monotonic() + self.asked.seconds

    @property
    def going(self) -> bool:
        """Nobody waits for it any more."""
        return self.answering.cancelled.is_set() or self.answering.over

    def late(self, now: float) -> bool:
        """Its time is up."""
        return self.deadline is not None and now >= self.deadline


@dataclass(eq=False)
class Row:
    """One answer on its way, or one text that is only read.

    Attributes:
        drawing, voice: how it is drawn and said; None where the row is only read.
        reads: see `Reads`. shares: its beginning may be known, and becomes known; not where every state is wanted.
        known: tokens read. node: where in the tree it continues; kept: how many of its tokens the tree holds up to there.
        alone: it failed beside others, and is tried by itself.
        done: it was read, and nothing is to be written. total: sum of states so far, for ``mean``.
        echo: the prompt's tokens as they are told, for ``every``.
    """

    question: Question
    tokens: list[int]
    drawing: Drawing | None = None
    voice: Voice | None = None
    reads: Reads = "last"
    known: int = 0
    kept: int = 0
    node: Node | None = None
    alone: bool = False
    done: bool = False
    total: Tensor | None = None
    echo: list[TokenInfo] = field(default_factory=list)
    _places: Places = field(default_factory=lambda: np.empty(0, np.int32))

    @property
    def owner(self) -> str | None:
        return self.question.owner

    @property
    def shares(self) -> bool:
        return self.reads == "last" and not self.alone

    @property
    def unread(self) -> int:
        """Tokens that are to be read before one can be drawn: one for a row that writes."""
        return len(self.tokens) - self.known

    @property
    def written(self) -> int:
        return len(self.tokens) - len(self.question.prompt)

    @property
    def left(self) -> int:
        """Tokens it may still write."""
        return self.question.limit - self.written if self.drawing else 0

    @property
    def places(self) -> Places:
        """Of the known tokens."""
        return self._places[: self.known]

    def stands_on(self, node: Node) -> bool:
        """It continues `node`, or something below it."""
        step = self.node
        while step is not None and step is not node:
            step = step.above
        return step is node

    def add(self, places: Places) -> None:
        """The next tokens are known."""
        end = self.known + len(places)
        if end > len(self._places):
            grown = np.empty(max(end + 64, 2 * len(self._places)), np.int32)
            grown[: self.known] = self._places[: self.known]
            self._places = grown
        self._places[self.known : end] = places
        self.known = end

    def follow(self, known: Known) -> int:
        """Take over what the tree knows of the tokens ahead, all but the last, which is read for its state. How many were found."""
        if not self.shares or self.kept < self.known:
            return 0  # its own tokens lie between the tree and what comes
        node = self.node or known.root(self.owner)
        found, places = known.follow(node, self.tokens, self.known, len(self.tokens) - 1)
        for part in places:
            self.add(part)
        self._stand_at(found, known)
        count = self.known - self.kept
        self.kept = self.known
        return count

    def plan(self, known: Known, places: Places) -> Node | None:
        """The next tokens are read in this pass, to `places`. Where they are put in the tree, the new node."""
        self.add(places)
        if not self.shares or self.kept < self.known - len(places):
            return None
        if self.unread == 0:
            places = places[:-1]  # the last is private: a row with the same prompt reads its own, and writes behind it
        if len(places) == 0:
            return None
        node = known.grow(self.node or known.root(self.owner), self.tokens[self.kept : self.kept + len(places)], places)
        self._stand_at(node, known)
        self.kept += len(places)
        return node

    def leave(self, known: Known) -> None:
        """Give places back. What was read and written stays in the tree, for whoever begins alike."""
        own = self._places[self.kept : self.known]
        if self.shares and len(own):
            node, found = known.follow(self.node or known.root(self.owner), self.tokens, self.kept, self.known)
            have = sum(map(len, found))
            known.pool.give(own[:have])  # somebody else was faster
            if have < len(own):
                known.grow(node, self.tokens[self.kept + have : self.known], own[have:].copy())
        elif len(own):
            known.pool.give(own)
        self._let_go(known)

    def restart(self, known: Known) -> None:
        """Give all places back; what it has written stays, and is read again when its turn comes."""
        known.pool.give(self._places[self.kept : self.known])
        self._let_go(known)
        self.total, self.echo = None, []

    def _let_go(self, known: Known) -> None:
        if self.node is not None:
            known.release(self.node)
        self.node, self.known, self.kept = None, 0, 0

    def _stand_at(self, node: Node, known: Known) -> None:
        if node is self.node:
            return
        known.hold(node)
        if self.node is not None:
            known.release(self.node)
        self.node = node


def mean_state(row: Row) -> Tensor:
    """Mean state of a row that was read, of unit length, float32 ``[D]``: mean pooling, as sentence encoders do it."""
    assert row.total is not None
    return torch.nn.functional.normalize(row.total / len(row.tokens), dim=0).cpu()
