"""What a token writes, as bytes. Text is put together from them: a character may be spread over several tokens."""

from __future__ import annotations

import json
import re
from typing import Any

from luthier.data.tokenizer import Tokenizer

MARK = "\u2581"
"""What SentencePiece writes for a space."""


class Pieces:
    """Bytes of each token of one tokenizer, found when first asked for.

    Attributes:
        strips: the tokenizer leaves the space out that its first word begins with, where a text begins.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        decoder: dict[str, Any] = json.loads(tokenizer.content).get("decoder") or {}
        parts = [decoder, *decoder.get("decoders", [])]
        kinds = {part.get("type") for part in parts}
        self.tokenizer = tokenizer
        self.added = {number: text for text, number in tokenizer.added.items()}
        self.bytewise = "ByteLevel" in kinds
        self.marked = bool(kinds & {"Metaspace", "Replace", "ByteFallback"})
        spaced = next((n for text in ("the", "a", "") if (n := tokenizer.id_of(MARK + text)) is not None), None)
        self.strips = self.marked and spaced is not None and not tokenizer.decode([spaced]).startswith(" ")
        self._known: dict[int, bytes] = {}

    def of(self, token: int) -> bytes:
        """The bytes of a token; nothing for an id the tokenizer does not know."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._bytes(token)
        return found

    def _bytes(self, token: int) -> bytes:
        if token in self.added:
            return self.added[token].encode()
        text = self.tokenizer.text_of(token)
        if self.bytewise and all(letter in BYTES for letter in text):
            return bytes(BYTES[letter] for letter in text)
        if self.marked:
            byte = re.fullmatch(r"<0x([0-9A-F]{2})>", text)
            return bytes([int(byte[1], 16)]) if byte else text.replace(MARK, " ").encode()
        return (self.tokenizer.decode([token]) if text else "").encode()


def _letters() -> dict[str, int]:
    """The letter GPT-2's vocabulary writes for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


BYTES = _letters()
