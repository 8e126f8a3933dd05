"""Text as an encoder reads it: whole, between the tokens its tokenizer puts around it. No turns, no template, no next token.

    one text    [CLS] a a a [SEP]
    a pair      [CLS] a a a [SEP] b b [SEP]        with RoBERTa's tokenizer  <s> a a a </s></s> b b </s>

The answer of a row (a label, a number) is no text an encoder could write. It travels behind the row **spelled**: one id a byte, beyond the
vocabulary, so that it comes back exactly as the data has it, whatever a tokenizer would do to its letters. The network never reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from luthier.core.errors import DataError, ModelError
from luthier.core.example import Example, Message
from luthier.core.sequence import Sequence as Path
from luthier.data.tokenizer import Tokenizer

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
        self.prefix, self.suffix = tokenizer.prefix, tokenizer.suffix
        self.between = self._between()

    def read(self, text: str, pair: str = "") -> list[int]:
        """Ids of a text, or of two."""
        first, second = self.tokenizer.encode_many([text, pair])
        return [*self.prefix, *first, *([*self.between, *second] if pair else []), *self.suffix]

    def spell(self, answer: str) -> list[int]:
        """The answer behind a row: one id a byte, beyond the vocabulary."""
        return [self.tokenizer.size + byte for byte in answer.encode()]

    def words(self, tokens: Iterable[int]) -> str:
        """Text of ids, a spelled answer among them."""
        tokens, size = list(tokens), self.tokenizer.size
        spelled = bytes(token - size for token in tokens if token >= size)
        return self.tokenizer.decode([token for token in tokens if token < size]) + spelled.decode(errors="replace")

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


def text_of(example: Example, messages: Sequence[Message]) -> tuple[str, str]:
    """What `messages` of a row say, and the second text where the row has two.

    Raises:
        DataError: there are tools, calls or thinking among them, which a text has no place for.
    """
    for place, message in enumerate(messages):
        if message.tool_calls or message.thinking or example.tools:
            raise DataError(
                "An encoder reads words; tools, their calls and thinking have no place in them.",
                where=f"{example.source} field messages.{place}",
                remedy="Write them as words, or choose a model that writes the next token.",
                code="unrendered",
            )
    text = BETWEEN.join(message.content for message in messages if message.content)
    return (text.removesuffix(f"{PAIRED}{example.pair}"), example.pair) if example.pair else (text, "")


PAIRED = "\n\n"
"""Between the two texts of a row, for models that read one."""
