"""Rows that differ only in their words, as token paths: the outline of a whole row, made once for each order of roles.

A conversation of plain turns is, for most templates, one text with holes, of which some stretches are learned:

    <|im_start|>user\\n [0] <|im_end|>\\n<|im_start|> assistant\\n [1] <|im_end|>
                                                    ^             ^ learned  ^
                                                    opens                    closes

Many such texts are encoded at once (`data.words`), and what is learned is found by the tokens at `opens` and `closes`: there a text is cut
whatever its contents are. Behind `opens` must come the tokens of the opening as it stands alone; where they do not, the answer has merged
with it. Such a row is laid out the long way (`data.render`), as is every row with tools, thinking or weights, every row whose contents a
template looks into, and all rows of a template that outlines cannot hold. The first row of each mould is laid out both ways.

A prompt that does not go on from an earlier answer (its template shows earlier answers otherwise than they were learned) begins a path
of its own, as in `data.paths`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np

from luthier.core.errors import DataError
from luthier.core.example import Example, Message
from luthier.data.columns import Columns
from luthier.data.content import plain_roles
from luthier.data.outline import KEPT, Asked, holes, meets
from luthier.data.render import Renderer
from luthier.data.runs import inside
from luthier.data.turns import Script, learned_turns
from luthier.data.words import Words

_TRIES = 8
"""Rows by which a mould may be proven; where the first ones are all odd, the others will be."""


@dataclass(slots=True)
class Cast:
    """One path of a mould.

    Attributes:
        words: the template's words in their places, nothing where a hole is. holes: their places, and which content fills each
            (``~place``: the trimmed one).
        answers: for each, the number of parts before its opening, the tokens of the opening, the number of parts before its end.
    """

    words: list[bytes] = field(default_factory=list)
    holes: list[tuple[int, int]] = field(default_factory=list)
    answers: list[tuple[int, tuple[int, ...], int]] = field(default_factory=list)

    def add(self, parts: Sequence[str | int]) -> None:
        """Append words and holes."""
        for part in parts:
            if isinstance(part, int):
                self.holes.append((len(self.words), part))
            self.words.append(b"" if isinstance(part, int) else part.encode())

    def filled(self, contents: Sequence[str]) -> tuple[bytes, list[int]]:
        """The text, and the bytes before each of its parts and behind the last."""
        pieces = self.words.copy()
        for place, content in self.holes:
            pieces[place] = (contents[content] if content >= 0 else contents[~content].strip()).encode()
        return b"".join(pieces), list(accumulate(map(len, pieces), initial=0))


@dataclass(slots=True)
class Mould:
    """The paths of a row whose contents meet what is `asked`. `proven`: a row has come out as it does the long way."""

    casts: list[Cast]
    asked: list[Asked]
    proven: bool = False
    tries: int = _TRIES


@dataclass(slots=True)
class _Line:
    """A path as marked text, and where its answers begin and end in it."""

    text: str = ""
    answers: list[tuple[int, int]] = field(default_factory=list)


def mould_of(script: Script, words: Words, roles: Sequence[str], places: Sequence[int]) -> Mould | None:
    """The mould of rows with these roles, whose answers at `places` are learned; None where there can be none."""
    lines: list[_Line] = []
    asked: list[Asked] = []
    turns: dict[int, tuple[str, str]] = {}
    for place in places:
        turn = script.outlined(roles, place)
        if turn is None:
            return None
        prompt, answer, assumed = turn
        found = _continued(prompt, lines)
        if found is None:
            return None
        line, more = found
        line.text = prompt + answer
        line.answers.append((len(prompt), len(line.text)))
        lines += [line] if line not in lines else []
        turns[place] = prompt, answer
        asked += [*assumed, *more]
    casts = [_cast(line, words) for line in lines]
    made = [cast for cast in casts if cast is not None]
    whole = bool(made) and len(made) == len(casts) and _shows_all(turns, len(roles))
    return Mould(made, list(dict.fromkeys(asked))) if whole else None


def _continued(prompt: str, lines: list[_Line]) -> tuple[_Line, list[Asked]] | None:
    """The last line that `prompt` goes on from, or a new one; and what must hold of the contents so that it goes on from no later one."""
    asked: list[Asked] = []
    for line in reversed(lines):
        if prompt.startswith(line.text):
            return line, asked
        parted = _parted(holes(line.text), holes(prompt))
        if parted is None:
            return None
        asked += parted
    return _Line(), asked


def _parted(line: Sequence[str | int], prompt: Sequence[str | int]) -> list[Asked] | None:
    """What must hold of the contents so that `prompt` surely does not begin with `line`; None where that cannot be said."""
    left, right = [part for part in reversed(line) if part != ""], [part for part in reversed(prompt) if part != ""]
    while left and right:
        a, b = left.pop(), right.pop()
        if isinstance(a, str) and isinstance(b, str):
            shared = min(len(a), len(b))
            if a[:shared] != b[:shared]:
                return []
            left += [a[shared:]] if a[shared:] else []
            right += [b[shared:]] if b[shared:] else []
        elif a != b:
            hole, words = (a, b) if isinstance(a, int) else (b, a)
            return [(hole, "starts", words[0])] if isinstance(hole, int) and isinstance(words, str) else None
    return [] if left else None  # a prompt that ends within a line does not go on from it


def _cast(line: _Line, words: Words) -> Cast | None:
    """The parts of a line; None where the words before an answer are not cut for sure."""
    cast, begun = Cast(), 0
    for start, stop in line.answers:
        *before, last = holes(line.text[begun:start])  # the template's words are first and last in it, if only as nothing
        cut = words.last_cut(str(last))
        if not cut:
            return None
        opening = str(last)[cut:]
        cast.add([*before, str(last)[:cut], opening])
        opens = len(cast.words) - 1
        cast.add(holes(line.text[start:stop]))
        cast.answers.append((opens, tuple(words.alone(opening)), len(cast.words)))
        begun = stop
    return cast


def _shows_all(turns: dict[int, tuple[str, str]], messages: int) -> bool:
    """Whether every content is in its own answer, or in the next prompt that is read: see `data.unrendered`."""
    for index in range(messages):
        text = turns[index][1] if index in turns else next((prompt for place, (prompt, _) in turns.items() if place > index), "")
        if text and not {index, ~index} & set(holes(text)):
            return False
    return True


@dataclass(slots=True)
class _Sheet:
    """Texts to be encoded together, and where their answers are in them, in bytes.

    Attributes:
        owners, sides: of each text, the place of its row in the batch, and its part of a pair.
        answers: text, opening, bytes before the opening and before the end. openings: the tokens of each.
    """

    texts: list[bytes] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    sides: list[str] = field(default_factory=list)
    answers: list[tuple[int, int, int, int]] = field(default_factory=list)
    openings: dict[tuple[int, ...], int] = field(default_factory=dict)

    def pour(self, owner: int, found: Sequence[tuple[Mould, Sequence[str], str]]) -> _Sheet:
        """Add the texts of a row: its moulds, each with contents and side."""
        for mould, contents, side in found:
            for cast in mould.casts:
                text, ends = cast.filled(contents)
                for opens, opening, closes in cast.answers:
                    number = self.openings.setdefault(opening, len(self.openings))
                    self.answers.append((len(self.texts), number, ends[opens], ends[closes]))
                self.texts.append(text)
                self.owners.append(owner)
                self.sides.append(side)
        return self


class Moulds:
    """Lays out rows, many at once, with the moulds of one model.

    Args:
        learn: as in `Renderer.render`. Where ``everything`` is learned, and for an encoder, all rows are odd.
    """

    def __init__(self, renderer: Renderer, learn: str) -> None:
        self._renderer, self._learn = renderer, learn
        self._ends = np.array(sorted(renderer.end_tokens), np.int32)
        self._made: dict[tuple[int, tuple[str, ...]], Mould | None] = {}

    @cached_property
    def _words(self) -> Words | None:
        one_by_one = self._renderer.plain is not None or self._renderer.eyes is not None  # no template, or pictures where it puts them
        return None if one_by_one or self._learn == "everything" else self._renderer.tokenizer.words

    def lay(self, examples: Sequence[Example]) -> tuple[Columns, list[int]]:
        """Paths of all rows that are not odd, and the places of those that are."""
        sheet, odd = _Sheet(), set[int]()
        for place, example in enumerate(examples):
            if not self._fill(sheet, place, example):
                odd.add(place)
        return self._columns(sheet, odd), sorted(odd)

    def _columns(self, sheet: _Sheet, odd: set[int]) -> Columns:
        """The texts of the sheet as paths, without those of rows that turn out odd; these are added to `odd`."""
        if self._words is None or not sheet.texts:
            return Columns.of([])
        laid, owners = self._words.lay(sheet.texts), np.array(sheet.owners, np.int64)
        text, opening, opens, closes = np.array(sheet.answers, np.int64).T
        first, stop = (laid.at(laid.begins[text] + places) for places in (opens, closes))
        good = (first >= 0) & (stop >= 0)
        for tokens, number in sheet.openings.items():
            mine = opening == number
            for token in tokens:
                good[mine] &= laid.tokens[np.minimum(first[mine], len(laid.tokens) - 1)] == token
                first[mine] += 1
        good &= (first < stop) & np.isin(laid.tokens[stop - 1], self._ends)
        odd.update(owners[text[~good]].tolist())
        weights = inside(first[good], stop[good], len(laid.tokens)).astype(np.float32)
        columns = Columns(laid.tokens, weights, np.diff(laid.borders), owners, sheet.sides)
        return columns.without(odd)

    def _fill(self, sheet: _Sheet, place: int, example: Example) -> bool:
        """Whether the row was added to the sheet."""
        found = []
        for messages, start, side in self._sides(example):
            roles = plain_roles(messages)
            mould = self._mould(start, roles) if roles else None
            contents = [message.content for message in messages]
            if mould is None or not meets(contents, mould.asked):
                return False
            found.append((mould, contents, side))
        new = [mould for mould, _, _ in found if not mould.proven]
        if new and not self._prove(new, example, _Sheet().pour(0, found)):
            return False
        sheet.pour(place, found)
        return bool(found)

    def _sides(self, example: Example) -> Iterator[tuple[list[Message], int, str]]:
        """The conversations of a row, each with the place from which it is learned; none where moulds do not serve."""
        if self._words is None or example.tools or example.form == "text" or self._renderer.joins(example):
            return
        if not example.sided:
            yield example.messages, 0, ""
            return
        for answer, side in ((example.chosen, "chosen"), (example.rejected, "rejected")):
            if answer:
                yield [*example.messages, *answer], len(example.messages), side

    def _mould(self, start: int, roles: tuple[str, ...]) -> Mould | None:
        if (start, roles) not in self._made:
            if len(self._made) >= KEPT:
                self._made.clear()
            places = learned_turns([Message(role) for role in roles], self._learn, start=start)
            self._made[start, roles] = mould_of(self._renderer.script, self._words, roles, places) if self._words else None
        mould = self._made[start, roles]
        return mould if mould is not None and mould.tries else None

    def _prove(self, new: list[Mould], example: Example, sheet: _Sheet) -> bool:
        """Whether a row of new moulds comes out of them as it does the long way."""
        odd = set[int]()
        columns = self._columns(sheet, odd)
        try:
            same = not odd and columns.equal(self._renderer.render(example, learn=self._learn))
        except DataError:
            same = False
        for mould in new:
            mould.proven, mould.tries = same, mould.tries - 1 if odd else _TRIES * same
        return same
