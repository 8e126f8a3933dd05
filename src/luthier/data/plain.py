"""Text as an encoder reads it: whole, between the tokens its tokenizer puts around it. No turns, no template, no next token.

    one text    [CLS] a a a [SEP]
    a pair      [CLS] a a a [SEP] b b [SEP]        with RoBERTa's tokenizer  <s> a a a </s></s> b b </s>

The answer of a row (a label, a number) is no text an encoder could write. It travels behind the row **spelled**: one id a byte, beyond the
vocabulary, so that it comes back exactly as the data has it, whatever a tokenizer would do to its letters. The network never reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from luthier.core.errors import DataError, ModelError
from luthier.core.example import MARK, Example, Message
from luthier.core.sequence import Sequence as Path
from luthier.data.refusals import blind, teaches_nothing
from luthier.data.tokenizer import Tokenizer
from luthier.data.turns import Turn

ENCODERS = frozenset({"bert", "roberta", "distilbert", "modernbert"})
"""``model_type`` of networks that read a row whole."""

BETWEEN = "\n"
"""Between the messages of a row, where it has several."""


class Plain:
    """What a tokenizer puts around one text and around two.

    Raises:
        ModelError: it puts nothing around a text, so that there is no place for a head to look at.
    """

    def __init__(self, tokenizer: Tokenizer, *, where: str = "") -> None:
        self.tokenizer = tokenizer
        if not tokenizer.prefix or not tokenizer.suffix:
            raise ModelError(
                "The tokenizer puts no tokens around a text; an encoder's head looks at the first of them.",
                where=where,
                remedy="Take the tokenizer.json that belongs to the model; its post_processor names them.",
                code="tokenizer",
            )
        self.prefix, self.suffix, self.end = tokenizer.prefix, tokenizer.suffix, tokenizer.suffix[-1]
        self.between = self._between()

    def admit(self, turn: Turn) -> None:
        """Refuse what is not read.

        Raises:
            DataError: there is a picture among the words.
        """
        if turn.media:
            raise blind()

    def read(self, turn: Turn) -> list[int]:
        """Ids of the text before an answer, or of two."""
        first, second = self.tokenizer.encode_many([turn.prompt, turn.pair])
        return [*self.prefix, *first, *([*self.between, *second] if turn.pair else []), *self.suffix]

    def spell(self, answer: str) -> list[int]:
        """The answer behind a row: one id a byte, beyond the vocabulary."""
        return spelled(answer, self.tokenizer.size)

    def words(self, tokens: Iterable[int]) -> str:
        """Text of ids, a spelled answer among them."""
        return words(tokens, self.tokenizer.size, self.tokenizer.decode)

    def length(self, path: Path) -> int:
        """Tokens of a path that the network reads."""
        return int((path.tokens < self.tokenizer.size).sum())

    def ended(self, tokens: Sequence[int], room: int) -> list[int]:
        """The ids of one text without so much of its end that `room` holds them; what stands around it stays."""
        return [*tokens[: room - len(self.suffix)], *self.suffix]

    def _between(self) -> list[int]:
        library = self.tokenizer.library
        one, two = library.encode("a", add_special_tokens=True).ids, library.encode("a", "a", add_special_tokens=True).ids
        bare = one[len(self.prefix) : len(one) - len(self.suffix)]
        return list(two[len(one) - len(self.suffix) : len(two) - len(self.suffix) - len(bare)])


def spelled(answer: str, size: int) -> list[int]:
    """An answer as ids beyond a vocabulary of `size`: one a byte."""
    return [size + byte for byte in answer.encode()]


def words(tokens: Iterable[int], size: int, decode: Callable[[list[int]], str]) -> str:
    """Text of ids: those of the vocabulary by `decode`, behind it what is spelled."""
    known, beyond = list[int](), bytearray()
    for token in tokens:
        known.append(token) if token < size else beyond.append(token - size)
    return (decode(known) if known else "") + beyond.decode(errors="replace")


class Manner(Protocol):
    """What rows without a template are to a model."""

    def admit(self, turn: Turn) -> None: ...


def whole(example: Example, manner: Manner) -> Turn:
    """A row as it is read whole: what stands before its last answer, and that answer.

    Raises:
        DataError: it has no answer; or as `question`.
    """
    turn = question(example, manner)
    said = example.messages[turn.index] if turn.index < len(example.messages) else Message("assistant")
    if not said.content:
        raise teaches_nothing(example.source)
    return replace(turn, answer=said.content, weight=said.weight)


def question(example: Example, manner: Manner) -> Turn:
    """What stands before the last answer of a row; that answer may be empty.

    Raises:
        DataError: it has two answers to compare, or something that is not read.
    """
    if example.sided:
        raise DataError(
            "This model reads a row and says what it is; answers to compare are for a model that writes.",
            where=str(example.source),
            remedy="Use rows with one label, or choose a model that writes the next token.",
            code="encoder_rows",
        )
    places = [n for n, message in enumerate(example.messages) if message.role == "assistant" and message.weight > 0]
    before = example.messages[: places[-1]] if places else example.messages
    turn = asked(before)
    _refuse(example, before, turn)
    if example.pair:
        turn = replace(turn, prompt=turn.prompt.removesuffix(f"{PAIRED}{example.pair}"), pair=example.pair)
    manner.admit(turn)
    return turn


def asked(messages: Sequence[Message]) -> Turn:
    """What stands before an answer, for models without a template."""
    media = tuple(medium for message in messages for medium in message.media)
    text = BETWEEN.join(message.content for message in messages if message.content)
    return Turn(text, "", 1.0, len(messages), media=media)


def _refuse(example: Example, messages: Sequence[Message], turn: Turn) -> None:
    """What has no place in a text: tools, calls, thinking, and marks of pictures that are not there."""
    for place, message in enumerate(messages):
        if message.tool_calls or message.thinking or example.tools:
            raise DataError(
                "An encoder reads words; tools, their calls and thinking have no place in them.",
                where=f"{example.source} field messages.{place}",
                remedy="Write them as words, or choose a model that writes the next token.",
                code="unrendered",
            )
    if turn.prompt.count(MARK) != len(turn.media):
        raise DataError(
            "The row has the character U+FFFC, which stands for a picture, where there is none.",
            where=str(example.source),
            remedy="Delete the character.",
            code="unrendered",
        )


PAIRED = "\n\n"
"""Between the two texts of a row, for models that read one."""
