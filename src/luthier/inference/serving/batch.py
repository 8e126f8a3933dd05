"""One step for everybody: read what is planned in as few passes as can be, draw a token for each row that may write, say what is new.

N tokens of a pass, V vocabulary, D width of a state.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import ParamSpec, Protocol

import torch
from torch import Tensor

from luthier.core.errors import LuthierError, ResultError
from luthier.inference.serving.ask import Delta, TokenInfo, ours
from luthier.inference.serving.drawing import Drawn, draw, measured
from luthier.inference.serving.pieces import Pieces
from luthier.inference.serving.room import Part, Room
from luthier.inference.serving.rows import Row
from luthier.models.pool import Paged, Stretch

Given = ParamSpec("Given")

CHUNK = 64
"""States scored at once where a prompt's own log-probabilities are asked for: bounds the ``[N, V]`` scores."""


class Readers(Protocol):
    """The network and its adapters, as the batch wants them."""

    def apart(self, owner: str | None) -> str | None:
        """None for owners who read in one pass with each other; else a name of their own, to read in a pass of their own."""
        ...

    def states(self, owners: list[str | None], counts: list[int], tokens: list[int], positions: list[int], sight: Paged) -> Tensor:
        """States ``[N, D]`` of stretches of tokens; each stretch has its owner and its count."""
        ...

    def scores(self, states_BD: Tensor) -> Tensor:
        """Token scores, float32 ``[B, V]``."""
        ...


class Batch:
    """The rows of one base, step by step. Not thread-safe: one thread owns it.

    Attributes:
        steps, drawn: passes made and tokens drawn so far.
    """

    def __init__(self, room: Room, readers: Readers, pieces: Pieces) -> None:
        self.room, self.readers, self.pieces = room, readers, pieces
        self.steps = self.drawn = 0

    @property
    def idle(self) -> bool:
        """Nobody is here."""
        return not self.room.inside and not len(self.room.outside)

    def enter(self, rows: list[Row]) -> None:
        """Rows of one question wait for their turn."""
        for row in rows:
            row.question.left += 1
            self.room.enter(row)

    def step(self) -> None:
        """See the picture in the package's page. Whatever goes wrong with one row ends that row only."""
        for row in self.room.ended():
            self._gone(row)
        self.room.admit()
        with torch.inference_mode():
            for parts in self._passes(self.room.plan()):
                try:
                    states_ND = self._read(parts)
                except Exception as error:  # memory, mostly: each is tried once more by itself
                    self._failed(parts, error)
                    continue
                self._go_on(parts, states_ND)

    def drop(self, error: LuthierError) -> None:
        """Everybody goes and is told why, and nothing is known any more: what is wrong may be wrong anywhere."""
        for row in self.room.clear():
            row.question.answering.say(error)

    def _passes(self, parts: list[Part]) -> list[list[Part]]:
        """Who can be read together; in each pass rows of one token come first, and prompts of one adapter behind each other."""
        found: dict[object, list[Part]] = {}
        for part in parts:
            found.setdefault(part if part.row.alone else self.readers.apart(part.row.owner), []).append(part)
        return [sorted(group, key=lambda part: (part.count > 1, part.row.owner or "")) for group in found.values()]

    def _read(self, parts: list[Part]) -> Tensor:
        self.steps += 1
        tokens = [token for part in parts for token in part.row.tokens[part.row.known - part.count : part.row.known]]
        positions = [place for part in parts for place in range(part.row.known - part.count, part.row.known)]
        sight = Paged(self.room.pool, [Stretch(part.count, part.row.places) for part in parts])
        return self.readers.states([part.row.owner for part in parts], [part.count for part in parts], tokens, positions, sight)

    def _go_on(self, parts: list[Part], states_ND: Tensor) -> None:
        ends = list(accumulate(part.count for part in parts))
        for part, end in zip(parts, ends, strict=True):
            self._attempt(part.row, self._notice, part, states_ND[end - part.count : end])
        ready = [
            (part.row, end - 1) for part, end in zip(parts, ends, strict=True) if part.row.unread == 0 and part.row in self.room.inside
        ]
        for row, _ in ready:
            self._attempt(row, self._read_through, row)
        writing = [(row, place) for row, place in ready if row.drawing and row.left > 0 and row in self.room.inside]
        if writing:
            scores_BV = self.readers.scores(states_ND[[place for _, place in writing]])
            drawn = draw([row.drawing for row, _ in writing if row.drawing], scores_BV)
            for (row, _), found in zip(writing, drawn, strict=True):
                self._attempt(row, self._wrote, row, found)

    def _notice(self, part: Part, states_ND: Tensor) -> None:
        """What some rows want of every state."""
        row = part.row
        if row.reads == "mean":
            total = states_ND.float().sum(0)
            row.total = total if row.total is None else row.total + total
        if row.reads == "every" and row.written == 0:
            row.echo += self._own_probabilities(row, row.known - part.count, states_ND)

    def _own_probabilities(self, row: Row, first: int, states_ND: Tensor) -> list[TokenInfo]:
        """The prompt's tokens as the model would have drawn them; `first` is the place of the first state."""
        found = [self._info(Drawn(row.tokens[0]))] if first == 0 else []
        alternatives = row.question.asked.logprobs or 0
        for states_CD, begin in zip(states_ND.split(CHUNK), range(first, first + len(states_ND), CHUNK), strict=True):
            targets = row.tokens[begin + 1 : begin + 1 + len(states_CD)]
            if targets:
                scores_CV = self.readers.scores(states_CD[: len(targets)])
                found += [self._info(drawn) for drawn in measured(scores_CV, [alternatives] * len(targets), targets)]
        return found

    def _read_through(self, row: Row) -> None:
        """The prompt is read, or what was written before the row was sent out."""
        if row.voice is None:
            row.question.answering.usage.prompt += len(row.tokens)
            row.done = True
            self._leave(row)
        elif row.written == 0:
            if row.voice.index == 0:
                row.question.answering.usage.prompt = len(row.question.prompt)
            if row.question.asked.echo:
                row.question.answering.say(Delta(row.voice.index, row.question.text, row.echo))
            if row.left <= 0:
                self._finish(row, row.voice.end("length"))

    def _wrote(self, row: Row, drawn: Drawn | LuthierError) -> None:
        if isinstance(drawn, LuthierError):
            raise drawn
        assert row.voice is not None and row.drawing is not None
        self.drawn += 1
        question = row.question
        question.answering.usage.completion += 1
        self.room.outside.served(question.asked.key, written=1)
        if drawn.token in question.ends:
            self._finish(row, row.voice.end("stop"))
            return
        row.tokens.append(drawn.token)
        delta, stopped = row.voice.take(self._info(drawn))
        complete = row.drawing.take(drawn.token)
        if stopped:
            self._finish(row, row.voice.stopped(delta))
        elif complete or row.voice.enough or row.left <= 0:
            self._finish(row, _together(delta, row.voice.end("stop" if complete or row.voice.enough else "length")))
        elif delta.text or delta.tool_calls or delta.tokens:
            question.answering.say(delta)

    def _info(self, drawn: Drawn) -> TokenInfo:
        top = tuple((token, self.pieces.of(token), logprob) for token, logprob in drawn.top)
        return TokenInfo(drawn.token, self.pieces.of(drawn.token), drawn.logprob, top)

    def _finish(self, row: Row, delta: Delta) -> None:
        row.question.answering.say(delta)
        self._leave(row)

    def _leave(self, row: Row) -> None:
        self.room.leave(row)
        row.question.left -= 1
        if row.question.left == 0:
            row.question.answering.say(None)

    def _gone(self, row: Row) -> None:
        """Cancelled or too late; the room has let go of it already."""
        row.question.left -= 1
        if not row.question.going:
            row.question.answering.say(_too_late(row))
        elif row.question.left == 0:
            row.question.answering.say(None)

    def _end(self, row: Row, error: BaseException) -> None:
        """This row failed, and with it its question. Nobody shall continue what it wrote."""
        if row in self.room.inside:
            self.room.throw_out(row)
        row.question.left -= 1
        row.question.answering.say(ours(error))

    def _attempt(self, row: Row, work: Callable[Given, None], *given: Given.args, **named: Given.kwargs) -> None:
        """What fails for one row ends that row, and nobody else."""
        try:
            work(*given, **named)
        except Exception as error:
            self._end(row, error)

    def _failed(self, parts: list[Part], error: Exception) -> None:
        """Nothing of this pass was computed: who stood on it reads again, each row by itself; who failed by itself is told."""
        planted = [part.planted for part in parts if part.planted]
        for row in [row for row in self.room.inside if any(row.stands_on(node) for node in planted)]:
            self.room.send_out(row)
        for node in planted:
            self.room.known.remove(node)
        for part in parts:
            row = part.row
            if row in self.room.inside:
                self.room.send_out(row)
            if row.alone:
                self.room.outside.leave(partial(operator.is_, row))
                self._end(row, error)
            row.alone = True


def _together(delta: Delta, last: Delta) -> Delta:
    """Two deltas of one answer as one."""
    tokens, calls = delta.tokens + last.tokens, delta.tool_calls + last.tool_calls
    return Delta(delta.index, delta.text + last.text, tokens, calls, last.finish)


def _too_late(row: Row) -> LuthierError:
    what = f"The answer was not complete after {row.question.asked.seconds:g} seconds, with {row.written} tokens written."
    return ResultError(what, remedy="Allow more time, ask for fewer tokens, or ask when fewer others do.", code="too_late")
