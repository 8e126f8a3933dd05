"""What is asked, and what comes back: the words between whoever serves and the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Literal

from luthier.core.errors import LuthierError, ResultError, SpecError
from luthier.core.example import Message

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request.

    Attributes:
        model: who answers: a base or a tuned model, by its id.
        messages: a conversation, rendered by the model's template; or prompt: text or token ids to be continued as they are. One of both.
        tools: what may be called, OpenAI's shape. tool_choice: ``auto``, ``none``, ``required``, or ``{"type": "function", "function":
            {"name": ...}}``. parallel_tool_calls: several calls in one answer are welcome.
        n: answers. max_tokens: longest answer in tokens; None is as long as the context allows.
        temperature: 0 (always the likeliest token) to 2; top_p: in (0, 1]. seed: equal seeds draw equal tokens, whoever else is asking.
        stop: texts that end an answer and are not part of it.
        logprobs: None for none; else how many alternatives beside the token itself, 0 to 20.
        logit_bias: added to the scores of tokens, -100 to 100. presence_penalty, frequency_penalty: -2 to 2, on what was written so far.
        format: None, ``json_object``, or a JSON schema that the answer follows.
        echo: the prompt comes first in the answer, with its log-probabilities where they are asked for.
        key: whose turn it uses up. seconds: after so many the answer is given up; None waits.
    """

    model: str
    messages: list[Message] | None = None
    prompt: str | list[int] | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    n: int = 1
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] = field(default_factory=list)
    logprobs: int | None = None
    logit_bias: dict[int, float] = field(default_factory=dict)
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    format: str | dict[str, Any] | None = None
    echo: bool = False
    key: str = ""
    seconds: float | None = None

    def check(self) -> None:
        """Refuse what no answer can be drawn with.

        Raises:
            SpecError: names the field in `where`, and its range.
        """
        if (self.messages is None) == (self.prompt is None):
            raise _bad("messages", "There must be either messages or a prompt.", "Send one of the two.")
        for name, low, high in RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # so written, nan does not pass
                raise _bad(name, f"{name} = {value} does not do.", f"Choose {low:g} to {high:g}.")
        if self.top_p == 0:
            raise _bad("top_p", "top_p = 0 would leave no token.", "Choose more than 0, at most 1 (nothing cut off).")
        if any(not -100 <= value <= 100 for value in self.logit_bias.values()):
            raise _bad("logit_bias", "A bias lies outside -100 to 100.", "Choose -100 (never) to 100 (always).")
        if len(self.stop) > MOST_STOPS or not all(self.stop):
            raise _bad("stop", f"{len(self.stop)} stop texts, some perhaps empty.", f"Give at most {MOST_STOPS}, none empty.")
        if isinstance(self.format, str) and self.format != "json_object":
            raise _bad("response_format", f"{self.format!r} is no format.", "Choose json_object, or give a JSON schema.")


RANGES = (
    ("n", 1, 128),
    ("max_tokens", 0, 1 << 30),
    ("temperature", 0, 2),
    ("top_p", 0, 1),
    ("logprobs", 0, 20),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
)
"""The ranges of OpenAI's specification."""

MOST_STOPS = 16
"""The wire allows 4; a few more cost nothing."""


def _bad(name: str, what: str, remedy: str) -> SpecError:
    return SpecError(what, where=name, remedy=remedy, code="bad_value")


Other = tuple[int, bytes, float]
"""A token that was not chosen: its id, what it writes, its log-probability."""


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """One token of an answer.

    Attributes:
        token: its id. bytes: what it writes. logprob: natural log-probability under the model itself (temperature 1, no bias, no penalty);
            None for the first token of an echoed prompt, and where none was asked for.
        top: the likeliest tokens at this place, the chosen one not necessarily among them, likeliest first.
    """

    token: int
    bytes: bytes
    logprob: float | None = None
    top: tuple[Other, ...] = ()

    @property
    def text(self) -> str:
        """The bytes as text; a part of a character is U+FFFD."""
        return self.bytes.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model made. index: its place in the answer. arguments: JSON text of an object."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(slots=True)
class Delta:
    """What is new in one of the answers.

    Attributes:
        index: which of the n answers. text: what it says further; never a part of a character, or of a stop text.
        tokens: those whose text is out now; filled where log-probabilities are asked for.
        tool_calls: calls, each whole. finish: why it ended; None while it goes on. It is said once, with the last delta of the answer.
    """

    index: int
    text: str = ""
    tokens: list[TokenInfo] = field(default_factory=list)
    tool_calls: list[ToolCall] = field(default_factory=list)
    finish: Finish | None = None


@dataclass(slots=True)
class Usage:
    """Tokens of one request. prompt: read, once however many answers. cached: of these, known before. completion: written, all answers."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0


Heard = Delta | None | BaseException
"""What a listener is called with: a delta, None at the end, or the error that ended it."""


class Answering:
    """An answer on its way: iterate over its deltas, or listen to them. One of the two, once.

    Attributes:
        usage: complete at the end. model: the id that was asked for. fingerprint: of base, template and number format, for the wire.
    """

    def __init__(self, model: str = "") -> None:
        self.model, self.fingerprint = model, ""
        self.usage = Usage()
        self.cancelled = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[Heard] = []
        self._listener: Callable[[Heard], None] | None = None
        self._over = False
        self._wake: Callable[[], None] = lambda: None
        self._ended: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Delta]:
        """Deltas as they come; blocks between them. Leaving early cancels.

        Raises:
            LuthierError: the answer failed; deltas so far stay said.
        """
        heard: SimpleQueue[Heard] = SimpleQueue()
        self.listen(heard.put)
        ended = False
        try:
            while (item := heard.get()) is not None:
                if isinstance(item, BaseException):
                    ended = True
                    raise item
                yield item
            ended = True
        finally:
            if not ended:
                self.cancel()

    def listen(self, callback: Callable[[Heard], None]) -> None:
        """Have `callback` called for each delta, and once more with None at the end, or with the error.

        It is called from the engine's thread (what came before, from this one) and must not block: everybody waits for it meanwhile.
        """
        with self._lock:
            assert self._listener is None, "one listener"
            for item in self._waiting:
                callback(item)
            self._waiting.clear()
            self._listener = callback

    def cancel(self) -> None:
        """Nobody wants it any more. The engine lets go of it before its next step; nothing further is heard but the end."""
        self.cancelled.set()
        self._wake()

    @property
    def over(self) -> bool:
        """Nothing more will be heard."""
        return self._over

    def on_cancel(self, wake: Callable[[], None]) -> None:
        """For whoever answers: what to call when it is cancelled."""
        self._wake = wake

    def on_over(self, ended: Callable[[], None]) -> None:
        """For whoever answers: what to call, once, when nothing more will be heard."""
        self._ended = ended

    def say(self, item: Heard) -> None:
        """For whoever answers: pass on. A listener that fails cancels the answer and hurts nobody else."""
        with self._lock:
            if self._over:
                return
            self._over = not isinstance(item, Delta)
            self._tell(item)
        if self._over:
            self._ended()

    def _tell(self, item: Heard) -> None:
        if self._listener is None:
            self._waiting.append(item)
            return
        try:
            self._listener(item)
        except Exception:
            self.cancelled.set()

    def whole(self) -> list[Delta]:
        """Wait for everything; one delta for each of the n answers."""
        found: dict[int, Delta] = {}
        for delta in self:
            mine = found.setdefault(delta.index, Delta(delta.index))
            mine.text += delta.text
            mine.tokens += delta.tokens
            mine.tool_calls += delta.tool_calls
            mine.finish = delta.finish or mine.finish
        return [found[index] for index in sorted(found)]


def ours(error: BaseException) -> LuthierError:
    """Any error as one of ours, so that the wire can show it."""
    if isinstance(error, LuthierError):
        return error
    return ResultError(f"The answer failed: {type(error).__name__}: {error}.", remedy="Ask again; please report it.", code="answer_failed")
