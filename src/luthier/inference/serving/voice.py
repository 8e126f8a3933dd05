"""Tokens to text while they come: whole characters only, and nothing that may turn out to be the beginning of a stop text.

tokens   He llo , wor ld \\n Us er :            stop: "\\nUser:"
said     He llo , wor ld                        held back from \\n on, then dropped
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

from luthier.inference.serving.ask import Delta, Finish, TokenInfo
from luthier.inference.serving.calls import Calls


@dataclass
class Voice:
    """What one answer has said.

    Attributes:
        index: of the answer. stop: texts that end it. shown: tokens are passed on with their text.
        calls: finds tool calls in what is said; None where no tool is offered.
        strips: a space at the very beginning is the tokenizer's, not the answer's.
    """

    index: int
    stop: list[str]
    shown: bool = False
    calls: Calls | None = None
    strips: bool = False
    _decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    _held: str = ""
    _begun: bool = False
    _tokens: list[tuple[int, int, TokenInfo]] = field(default_factory=list)  # first and last character of those held back, and they
    _said: int = 0  # characters before `_held`

    def take(self, info: TokenInfo) -> tuple[Delta, bool]:
        """One more token: what can be said now, and whether a stop text came."""
        return self._heard(info, self._decoder.decode(info.bytes))

    def end(self, finish: Finish) -> Delta:
        """Nothing more comes: what was held back is said."""
        rest = self._decoder.decode(b"", True)
        self._held += rest
        delta = self._say(len(self._held), last=True)
        return self._close(delta, finish)

    def stopped(self, delta: Delta) -> Delta:
        """After a stop text: nothing held back is said."""
        return self._close(delta, "stop")

    @property
    def enough(self) -> bool:
        """A call is complete, and no other is wanted beside it."""
        return self.calls is not None and self.calls.enough

    def _heard(self, info: TokenInfo, text: str) -> tuple[Delta, bool]:
        if self.strips and not self._begun and text.startswith(" "):
            text = text[1:]
        self._begun = self._begun or bool(info.bytes)
        before = self._said + len(self._held)
        self._held += text
        if self.shown:
            self._tokens.append((before, before + len(text), info))
        at = min((place for stop in self.stop if (place := self._held.find(stop)) >= 0), default=-1)
        if at >= 0:
            delta = self._say(at, last=True)
            self._held, self._tokens = "", []
            return delta, True
        return self._say(len(self._held) - self._doubtful(), last=False), False

    def _doubtful(self) -> int:
        """Characters at the end that may begin a stop text."""
        longest = min(len(self._held), max(map(len, self.stop), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if any(stop.startswith(self._held[-n:]) for stop in self.stop)), 0)

    def _say(self, length: int, *, last: bool) -> Delta:
        text, self._held = self._held[:length], self._held[length:]
        self._said += length
        delta = Delta(self.index)
        if self._tokens:
            out = [(first, end, info) for first, end, info in self._tokens if (first < self._said if last else end <= self._said)]
            delta.tokens = [info for _, _, info in out]
            self._tokens = self._tokens[len(out) :]
        if self.calls is None:
            delta.text = text
        else:
            delta.text, delta.tool_calls = self.calls.take(text)
        return delta

    def _close(self, delta: Delta, finish: Finish) -> Delta:
        if self.calls is not None:
            text, calls = self.calls.end()
            delta.text += text
            delta.tool_calls += calls
            if self.calls.made and finish == "stop":
                finish = "tool_calls"
        delta.finish = finish
        return delta
