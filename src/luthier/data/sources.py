"""Rows of an encoder-decoder of text: the source as its tokenizer writes it, the decoder's first token, and the target.

translate this </s> <pad> übersetze das </s>        only what stands behind <pad>, the first token, is learned
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from luthier.core.errors import ModelError
from luthier.core.sequence import Sequence
from luthier.data.refusals import blind
from luthier.data.tokenizer import Tokenizer
from luthier.data.turns import Turn

TRANSLATORS = frozenset({"t5"})
"""``model_type`` of networks that read a source and write a target."""

STARTS = ("model_type", "decoder_start_token_id")
"""What of a config.json says how rows are laid out."""

BETWEEN = "\n"
"""Between the two texts of a row about two."""


class Sources:
    """How rows of a source and a target are laid out.

    Args:
        model: contents of config.json. end: the token that ends a target.

    Raises:
        ModelError: the tokenizer ends no text, or a source could hold the decoder's first token.
    """

    def __init__(self, tokenizer: Tokenizer, model: dict[str, Any], end: int | None, *, where: str = "") -> None:
        self.tokenizer, self.start = tokenizer, int(model.get("decoder_start_token_id") or 0)
        ends = [*tokenizer.suffix, *([] if end is None else [end])]
        if not ends or self.start in (*ends, *tokenizer.prefix):
            raise ModelError(
                "The tokenizer does not say how a text ends, or a decoder begins.",
                where=where,
                remedy="Fetch the model again.",
                code="tokenizer",
            )
        self.around, self.end = (tokenizer.prefix, tokenizer.suffix or ends[:1]), (tokenizer.suffix or ends)[-1]

    def admit(self, turn: Turn) -> None:
        """Refuse what is not read.

        Raises:
            DataError: there is a picture or a sound among the words.
        """
        if turn.media:
            raise blind()

    def read(self, turn: Turn) -> list[int]:
        """Ids of the source, and the decoder's first token."""
        text = f"{turn.prompt}{BETWEEN}{turn.pair}" if turn.pair else turn.prompt
        source = [token for token in self.tokenizer.encode(text) if token != self.start]
        return [*self.around[0], *source, *self.around[1], self.start]

    def spell(self, answer: str) -> list[int]:
        """Ids of the target and its end."""
        return [*self.tokenizer.encode(answer), self.end]

    def words(self, tokens: Iterable[int]) -> str:
        """Text of ids."""
        return self.tokenizer.decode(tokens)

    def length(self, path: Sequence) -> int:
        """Tokens of a path that the network reads."""
        return len(path.tokens)
