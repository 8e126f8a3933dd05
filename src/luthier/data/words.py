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
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

REMEMBERED_WORDS = 300_000
"""Words remembered before the memory is emptied: about 60 MB; the words of a language's texts are fewer."""

Encode = Callable[[list[str]], list[list[int]]]
"""Ids of texts by the library itself."""

_OTHER, _SPACE, _LETTER, _DIGIT, _MARK, _LINE = range(6)
_CLASS = np.zeros(256, np.uint8)
_CLASS[33:127] = _MARK
_CLASS[ord("'")] = _OTHER  # contractions: some tokenizers take them into the word
_CLASS[[*range(65, 91), *range(97, 123)]] = _LETTER
_CLASS[48:58] = _DIGIT
_CLASS[ord(" ")], _CLASS[ord("\n")] = _SPACE, _LINE
_WORDS = (_LETTER, _DIGIT, _MARK)
_BORDERS = ((_LETTER, _MARK), (_LETTER, _LINE), (_DIGIT, _MARK), (_DIGIT, _LINE), (_MARK, _DIGIT))
"""Cuts between two neighbours. Not between a mark and a line's end, nor before a letter: there common patterns reach across."""

_BETWEEN, _AROUND = np.zeros(36, bool), np.zeros(36, bool)  # [6 x class before + class after (for _AROUND: after the space)]
_BETWEEN[[6 * before + after for before, after in _BORDERS]] = True
_AROUND[[6 * before + after for before in _WORDS for after in _WORDS]] = True


class Words:
    """Ids of texts, by the ids of their words.

    Args:
        encode: what the library says of a text that stands alone.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._number: dict[str, int] = {}
        self._counts, self._first, self._ids = _nothing()
        self._filled = 0

    def __len__(self) -> int:
        """Words remembered."""
        return len(self._number)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        if len(self._number) > REMEMBERED_WORDS or self._filled > 8 * REMEMBERED_WORDS:
            self._forget()
        contents = [text.encode() for text in texts]
        ends = np.cumsum(np.fromiter(map(len, contents), np.int64, len(contents)))
        joined = b"".join(contents)
        if not joined:
            return [[] for _ in texts]
        starts = _starts(joined, ends)
        words = pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(np.append(starts, len(joined))), pa.py_buffer(joined))
        found = words.dictionary_encode()
        numbers = self._numbers(found.dictionary.to_pylist())[found.indices.to_numpy()]
        counts = self._counts[numbers]
        until = np.cumsum(counts)
        places = np.arange(until[-1]) + np.repeat(self._first[numbers] - (until - counts), counts)
        ids = self._ids[places].tolist()
        borders = [0, *np.append(0, until)[np.searchsorted(starts, ends)].tolist()]
        return [ids[start:stop] for start, stop in pairwise(borders)]

    def _numbers(self, words: list[str]) -> NDArray[np.int64]:
        """The number of each word; new ones are encoded."""
        numbers = list(map(self._number.get, words))
        if None in numbers:
            self._learn([word for word, number in zip(words, numbers, strict=True) if number is None])
            numbers = list(map(self._number.get, words))
        return np.array(numbers, np.int64)

    def _learn(self, words: list[str]) -> None:
        ids = self._encode(words)
        counts = np.fromiter(map(len, ids), np.int64, len(ids))
        first = self._filled + np.cumsum(counts) - counts
        self._number.update(zip(words, range(len(self._number), len(self._number) + len(words)), strict=True))
        self._counts, self._first = np.append(self._counts, counts), np.append(self._first, first)
        self._ids = np.append(self._ids, np.array(list(chain.from_iterable(ids)), np.int32))
        self._filled = len(self._ids)

    def _forget(self) -> None:
        self._number.clear()
        self._counts, self._first, self._ids = _nothing()
        self._filled = 0


def _nothing() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32)


def _starts(joined: bytes, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where words begin: at the texts' own beginnings, before a single space, and at the other borders."""
    kind = _CLASS[np.frombuffer(joined, np.uint8)]
    begins = np.zeros(len(kind), bool)
    begins[1:] = _BETWEEN[kind[:-1] * np.uint8(6) + kind[1:]]
    begins[1:-1] |= (kind[1:-1] == _SPACE) & _AROUND[kind[:-2] * np.uint8(6) + kind[2:]]
    begins[0] = True
    begins[ends[ends < len(kind)]] = True
    return np.flatnonzero(begins)


Splitter = Callable[[str], list[tuple[str, tuple[int, int]]]]


def words_of(content: bytes, split: Splitter, encode: Encode) -> Words | None:
    """The words of a tokenizer, where they stand alone.

    Args:
        content: ``tokenizer.json``. split: its pre-tokenizer. encode: its encoder.
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
    return Words(encode)


def _probes() -> list[tuple[str, str]]:
    """Texts in two parts, with each ASCII character before and after a border."""
    letters, marks = "aZs", "".join(chr(code) for code in range(33, 127) if _CLASS[code] == _MARK)
    lefts = [before + last for last in letters + "07" + marks for before in ("", "ab", " ", "\n1", "it's ", "\u00e9 ")]
    rights = [first + after for first in [f" {c}" for c in letters + "7" + marks] for after in ("", "b 1")]
    rights += [first + after for first in [*marks, "7", "\n"] for after in ("", "m", "\n\nN", "  2")]
    probes = [(left, right) for number, left in enumerate(lefts) for right in rights[number % 5 :: 5]]
    return [(a, b) for a, b in probes if _cut_at(a, b)]


def _cut_at(left: str, right: str) -> bool:
    before, after, beyond = (_CLASS[ord(letter)] for letter in (left[-1], right[0], right[1:2] or "'"))
    return bool(_BETWEEN[6 * before + after] or (after == _SPACE and _AROUND[6 * before + beyond]))


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
