"""The one door to the `tokenizers` library: text to ids and back, with repeated pieces encoded once.

Text is cut at the tokenizer's added tokens (``<|im_start|>`` and friends), because nothing ever merges across them; what lies between is
encoded in one batch (by words, see `data.words`, where that is proven) and remembered, so a system prompt that stands in every row, and the
earlier turns of a long dialogue, cost one encoding. Cutting is only done for tokenizers that prove on probes that it changes no id; the
others get whole strings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path

import tokenizers

from luthier.core.errors import ModelError
from luthier.core.files import write_bytes
from luthier.data.words import Words, words_of

REMEMBERED_CHARACTERS = 2_000_000
"""Characters of pieces remembered before the memory is emptied: about 20 MB of Python objects."""
MANY = 64
"""Pieces from which encoding by words pays; below, and until then, the library is asked."""
PROBES = ("a b", " x", "\n\ny", "é", "1.5 ")


class Tokenizer:
    """Ids of a text, exactly as ``tokenizer.json`` defines them. Nothing is truncated or padded, whatever that file asks for.

    Attributes:
        library: the Rust tokenizer. content: the bytes of ``tokenizer.json``.
        fingerprint: SHA-256 of ``tokenizer.json``.
        added: text to id of the added tokens, which are matched in text before anything else.
        prefix, suffix: ids that the tokenizer puts around a plain text (often a begin-of-text token), read from its post-processor.
        size: one more than the largest id.
    """

    def __init__(self, content: bytes) -> None:
        library = tokenizers.Tokenizer.from_str(content.decode())
        library.no_truncation()  # trap: a tokenizer.json may carry a truncation length, which would cut rows silently
        library.no_padding()
        self.library, self.content = library, content
        self.fingerprint = hashlib.sha256(content).hexdigest()
        tokens = library.get_added_tokens_decoder()
        self.added: dict[str, int] = {token.content: number for number, token in sorted(tokens.items())}
        self.size: int = max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        self.prefix, self.suffix = self._surroundings()
        longest_first = sorted(self.added, key=len, reverse=True)
        self.added_pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if self.added else None
        self._ids: dict[str, list[int]] = {}
        self._cut_texts: dict[str, list[str]] = {}  # those of the last `warm`: they are asked for next
        self._remembered = 0
        self._cuts = self._may_cut()

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read ``tokenizer.json``.

        Raises:
            ModelError: the file is missing or is not a tokenizer.
        """
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise ModelError(
                "The model folder has no tokenizer.json.", where=str(folder), remedy="Use a folder that holds the model's fast tokenizer."
            )
        try:
            return cls(file.read_bytes())
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"tokenizer.json cannot be read: {error}.", where=str(file), remedy="Fetch the file again.") from error

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; special tokens written in it count as such, none are put around it."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, in one call of the Rust batch encoder for all pieces not seen before."""
        self._make_room(2 * REMEMBERED_CHARACTERS)  # beyond what one `warm` may have put there to be looked up now
        pieces = [self._pieces(text) for text in texts]
        known = self._ids
        self._learn({piece for parts in pieces for piece in parts if piece not in known})
        return [list(chain.from_iterable(map(known.__getitem__, parts))) for parts in pieces]

    def encode_ends(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of `text`, and behind which character each ends; never falling."""
        found = self.library.encode(text, add_special_tokens=False)
        return list(found.ids), [end for _, end in found.offsets]

    def warm(self, texts: Sequence[str]) -> None:
        """Encode `texts` in one batch and remember their pieces."""
        self._make_room(REMEMBERED_CHARACTERS)
        self._cut_texts = {text: self._pieces(text) for text in texts}
        self._learn({piece for parts in self._cut_texts.values() for piece in parts if piece not in self._ids})

    def id_of(self, text: str) -> int | None:
        """The id of one token, special or not."""
        return self.library.token_to_id(text) if text else None

    def text_of(self, number: int) -> str:
        """The token with this id as it stands in the vocabulary; empty when there is none."""
        return self.library.id_to_token(number) or ""

    def first_added(self, text: str) -> tuple[int, int] | None:
        """Id of the first added token in `text`, and where it ends."""
        found = self.added_pattern.search(text) if self.added_pattern else None
        return (self.added[found[0]], found.end()) if found else None

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, special tokens included."""
        return str(self.library.decode(list(ids), skip_special_tokens=False))

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.json``, byte for byte as it was read: the fingerprint stays."""
        write_bytes(folder / "tokenizer.json", self.content)

    def _pieces(self, text: str) -> list[str]:
        if not self._cuts or self.added_pattern is None:
            return [text]
        if (known := self._cut_texts.get(text)) is not None:
            return known
        return [piece for piece in self.added_pattern.split(text) if piece]

    def _make_room(self, limit: int) -> None:
        if self._remembered > limit:
            self._ids.clear()
            self._remembered = 0

    def _learn(self, pieces: set[str]) -> None:
        if not pieces:
            return
        new = list(pieces)
        for piece, ids in zip(new, self._encode(new), strict=True):
            self._ids[piece] = ids
            self._remembered += len(piece) + 32

    def _encode(self, pieces: list[str]) -> list[list[int]]:
        words = self.words if len(pieces) >= MANY else None
        if words is None:
            return self._by_library(pieces)
        laid = words.lay([piece.encode() for piece in pieces])
        return [laid.tokens[start:stop].tolist() for start, stop in pairwise(laid.borders.tolist())]

    @cached_property
    def words(self) -> Words | None:
        """Encoding by words, where it is proven for this tokenizer. The proof takes a tenth of a second."""
        splitter = self.library.pre_tokenizer
        return words_of(self.content, splitter.pre_tokenize_str, self._by_library, self.added) if self._cuts and splitter else None

    def _by_library(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.library.encode_batch_fast(texts, add_special_tokens=False)]

    def _surroundings(self) -> tuple[list[int], list[int]]:
        bare = self.library.encode("a", add_special_tokens=False).ids
        dressed = self.library.encode("a", add_special_tokens=True).ids
        for start in range(len(dressed) - len(bare) + 1):
            if dressed[start : start + len(bare)] == bare:
                return dressed[:start], dressed[start + len(bare) :]
        return [], []

    def _may_cut(self) -> bool:
        """Whether encoding piece by piece gives the ids of the whole, on every added token and several neighbours."""
        if self.added_pattern is None:
            return False
        for token in list(self.added)[:64]:
            for left, right in zip(PROBES, PROBES[1:] + PROBES[:1], strict=True):
                text = f"{left}{token}{right}{token}{token}{left}"
                parts = [piece for piece in self.added_pattern.split(text) if piece]
                separate = [n for part in parts for n in self.library.encode(part, add_special_tokens=False).ids]
                if separate != self.library.encode(text, add_special_tokens=False).ids:
                    return False
        return all(not (t.lstrip or t.rstrip or t.single_word) for t in self.library.get_added_tokens_decoder().values())


def special_texts(folder: Path) -> dict[str, str]:
    """``bos_token``, ``eos_token`` and the like from ``tokenizer_config.json`` and ``special_tokens_map.json``, as plain text."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in read_json(folder / name).items():
            text = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(text, str):
                found[key] = text
    return found


def read_json(file: Path) -> dict[str, object]:
    """The object in a JSON file, or nothing when there is no such file.

    Raises:
        ModelError: the file is there and is not a JSON object.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file.name} is not JSON: {error}.", where=str(file), remedy="Fetch the file again.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file.name} holds no JSON object.", where=str(file), remedy="Fetch the file again.")
    return content
