"""Encoding by words: texts are cut into words, each different word goes once through the Rust encoder, and the ids are put together.

A text may be cut where nothing the tokenizer does reaches across: before a single space, between letters and punctuation, around digits
(all ASCII; `_BORDERS` has the list). That holds where the pre-tokenizer always splits there and looks at nothing further left: read from
``tokenizer.json``, and then tried on some thousand probes. Any other tokenizer gets its texts whole.

Finding the places is arithmetic on bytes (numpy), finding the different words Arrow's dictionary encoding. The Rust encoder alone makes a
record of every token and reads 3 MB/s on one core (GPT-2's vocabulary, English chat, measured); this reads some 20.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from luthier.data.runs import spread

REMEMBERED_WORDS = 300_000
"""Words remembered before the memory is emptied: about 60 MB; the words of a language's texts are fewer."""

Encode = Callable[[list[str]], list[list[int]]]
"""Ids of texts by the library itself."""

_GAP = b"\xff"
"""Stands behind every text: no UTF-8 holds it, so nothing reaches from one text into the next."""

_LETTERS, _DIGITS = bytes([*range(65, 91), *range(97, 123)]), bytes(range(48, 58))
_MARKS = bytes(each for each in range(33, 127) if each not in _LETTERS + _DIGITS + b"'")  # not ': contractions may be part of a word
_BORDERS = ((_LETTERS + _DIGITS, _MARKS + b"\n"), (_MARKS, _DIGITS), (_LETTERS + _DIGITS + _MARKS, b" "))
"""A text is cut between one of these and one of those. Not between a mark and a line's end, nor before a letter: there common patterns
reach across. Before a space only where none of them follows, too: `_AHEAD` is the bit of that border."""
_AHEAD = 4


def _bits(sets: Sequence[bytes]) -> bytes:
    """A table for `bytes.translate`: bit n of a byte says whether it is in set n."""
    return bytes(sum(1 << number for number, each in enumerate(sets) if byte in each) for byte in range(256))


_BEFORE, _AFTER = _bits([before for before, _ in _BORDERS]), _bits([after for _, after in _BORDERS])


@dataclass(slots=True, frozen=True)
class Laid:
    """Texts as ids, one behind the other.

    Attributes:
        tokens: int32, the ids of all texts. begins: int64, the byte at which each text begins, counted over all of them.
        words, firsts: int64, the byte at which each word begins, and the number of the token that stands there.
    """

    tokens: NDArray[np.int32]
    begins: NDArray[np.int64]
    words: NDArray[np.int64]
    firsts: NDArray[np.int64]

    @property
    def borders(self) -> NDArray[np.int64]:
        """The number of the token that begins each text, and of all tokens."""
        return np.append(self.at(self.begins), len(self.tokens))

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the token that begins at each byte; -1 where no text is cut."""
        found = np.minimum(np.searchsorted(self.words, places), len(self.words) - 1)
        return np.where(self.words[found] == places, self.firsts[found], -1)


class Words:
    """Ids of texts, by the ids of their words.

    Args:
        encode: what the library says of a text that stands alone. added: added tokens, which are met before anything else.
    """

    def __init__(self, encode: Encode, added: Iterable[str]) -> None:
        self._encode = encode
        longest_first = sorted((token.encode() for token in added), key=len, reverse=True)
        self._added = re.compile(b"|".join(map(re.escape, longest_first))) if longest_first else None
        self._number: dict[bytes, int] = {}
        self._counts, self._first, self._ids = _nothing()
        self._forget()

    @property
    def remembered(self) -> int:
        """How many words are known."""
        return len(self._number) - 1

    def lay(self, texts: Sequence[bytes]) -> Laid:
        """Ids of texts in UTF-8."""
        if len(self._number) > REMEMBERED_WORDS or len(self._ids) > 8 * REMEMBERED_WORDS:
            self._forget()
        joined = _GAP.join([*texts, b""])
        ends = np.fromiter(accumulate(map(len, texts)), np.int64, len(texts)) + np.arange(len(texts))
        starts = self.cuts(joined, ends)
        buffers = [None, pa.py_buffer(np.append(starts, len(joined))), pa.py_buffer(joined)]
        found = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(starts), buffers).dictionary_encode()
        numbers = self._numbers(found.dictionary.to_pylist())[found.indices.to_numpy()]
        counts = self._counts[numbers]
        tokens = self._ids[spread(self._first[numbers], counts)]
        return Laid(tokens, np.append(0, ends[:-1] + 1), starts, np.cumsum(counts) - counts)

    def cuts(self, joined: bytes, ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where words begin in texts that end at `ends`, each with a gap behind it. A gap is a word without ids."""
        before, after = (np.frombuffer(joined.translate(table), np.uint8) for table in (_BEFORE, _AFTER))
        begins = np.zeros(len(joined), bool)
        begins[1:-1] = before[:-2] & after[1:-1] & (before[2:] | (_AHEAD - 1))
        if self._added:
            spans = [match.span() for match in self._added.finditer(joined)]
            tokens = np.array(spans, np.int64).reshape(-1, 2)
            begins[spread(tokens[:, 0], tokens[:, 1] - tokens[:, 0])] = False
            begins[tokens.ravel()] = True
        begins[0] = begins[ends] = True
        begins[ends[:-1] + 1] = True
        return np.flatnonzero(begins)

    def last_cut(self, text: str) -> int:
        """The last place at which `text` is cut whatever comes before and behind it; 0 where there is none."""
        content = text.encode()
        begins = self.cuts(content + _GAP, np.array([len(content)]))
        added = any(match.end() == len(content) for match in (self._added.finditer(content) if self._added else ()))
        return len(content[: len(content) if added else int(begins[begins < max(len(content), 1)][-1])].decode())

    def alone(self, text: str) -> list[int]:
        """Ids of one text, by the library."""
        return self._encode([text])[0]

    def _numbers(self, words: list[bytes]) -> NDArray[np.int64]:
        """The number of each word; new ones are encoded."""
        numbers = list(map(self._number.get, words))
        if None in numbers:
            self._learn([word for word, number in zip(words, numbers, strict=True) if number is None])
            numbers = list(map(self._number.get, words))
        return np.array(numbers, np.int64)

    def _learn(self, words: list[bytes]) -> None:
        ids = self._encode([word.decode() for word in words])
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        first = len(self._ids) + np.cumsum(counts) - counts
        self._number.update(zip(words, range(len(self._number), len(self._number) + len(words)), strict=True))
        self._counts, self._first = np.append(self._counts, counts), np.append(self._first, first)
        self._ids = np.append(self._ids, np.array(list(chain.from_iterable(ids)), np.int32))

    def _forget(self) -> None:
        self._number = {_GAP: 0}
        self._counts, self._first, self._ids = _nothing()


def _nothing() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Counts, first places and ids of the gap alone."""
    return np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(0, np.int32)


Splitter = Callable[[str], list[tuple[str, tuple[int, int]]]]


def words_of(content: bytes, split: Splitter, encode: Encode, added: Iterable[str]) -> Words | None:
    """The words of a tokenizer, where they stand alone.

    Args:
        content: ``tokenizer.json``. split: its pre-tokenizer. encode: its encoder. added: its added tokens.
    """
    told = json.loads(content)
    model, splitters = told["model"], list(_parts(told["pre_tokenizer"], "pretokenizers"))
    plain = "merges" in model and not any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"))
    composes = all(part["type"] in ("NFC", "NFKC") for part in _parts(told.get("normalizer"), "normalizers"))  # joins marks, no letters
    if not (plain and composes and all(map(_looks_ahead_only, splitters))):
        return None
    probes = _probes()
    if any([word for word, _ in split(a + b)] != [word for part in (a, b) for word, _ in split(part)] for a, b in probes):
        return None
    alone = dict(zip(texts := list({part for probe in probes for part in probe}), encode(texts), strict=True))
    whole = encode([a + b for a, b in probes])
    if any(ids != alone[a] + alone[b] for ids, (a, b) in zip(whole, probes, strict=True)):
        return None
    return Words(encode, added)


def _probes() -> list[tuple[str, str]]:
    """Texts in two parts, with each ASCII character before and after a border."""
    letters, marks = "aZs", _MARKS.decode()
    lefts = [before + last for last in letters + "07" + marks for before in ("", "ab", " ", "\n1", "it's ", "\u00e9 ")]
    rights = [first + after for first in [f" {c}" for c in letters + "7" + marks] for after in ("", "b 1")]
    rights += [first + after for first in [*marks, "7", "\n"] for after in ("", "m", "\n\nN", "  2")]
    probes = [(left, right) for number, left in enumerate(lefts) for right in rights[number % 5 :: 5]]
    return [(a, b) for a, b in probes if _cut_at(a, b)]


def _cut_at(left: str, right: str) -> bool:
    before, after, beyond = (ord(letter) for letter in (left[-1], right[0], right[1:2] or "'"))
    return bool(_BEFORE[before] & _AFTER[after] & (_BEFORE[beyond] | (_AHEAD - 1)))


def _parts(part: dict[str, Any] | None, inner: str) -> Iterator[dict[str, Any]]:
    """A normalizer or pre-tokenizer, or those a sequence consists of."""
    if part is not None and part["type"] == "Sequence":
        for each in part[inner]:
            yield from _parts(each, inner)
    elif part is not None:
        yield part


def _looks_ahead_only(splitter: dict[str, Any]) -> bool:
    """It reads from left to right and puts no space of its own before a text."""
    if splitter["type"] == "ByteLevel":
        return bool(not splitter["add_prefix_space"])
    if splitter["type"] == "Split":
        pattern = str(splitter["pattern"].get("Regex", ""))
        outside = re.sub(r"\[(?:\\.|[^\]\\])*\]", "", pattern)  # ^ inside of brackets is no anchor
        return bool(pattern and splitter["behavior"] == "Isolated") and not re.search(r"\(\?<|[\^$]|\\[bBAzZGKX1-9]", outside)
    return bool(splitter["type"] == "Digits")
