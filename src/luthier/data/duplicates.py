"""Rows that occur twice, exactly or nearly, found in memory of a few bytes per row.

Exact: 16 bytes of hash and 4 of row number per row, sorted once at the end.

Near: one-permutation MinHash (Li, Owen, Zhang 2012, arXiv:1208.1259), densified by borrowing from the next filled bin (Shrivastava and Li
2014, arXiv:1406.4784), over 8-byte shingles of the lower-case words, all in numpy: each byte position costs one hash and one minimum, where
datasketch hashes every shingle in Python and takes 128 minima (it is the oracle in the tests). Signatures are 64 bins of 16 bits, 128
bytes a row; 16 bands of 4 bins find candidates, the share of equal bins (of all 64; standard error 0.05) decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

BINS, BANDS = 64, 16
SHINGLE_BYTES = 8
NEAR_ROWS = 200_000
"""Near duplicates are looked for among so many rows: 26 MB of signatures, and candidates stay few."""
NEAR_SHARE = 0.8
"""Estimated share of common shingles (Jaccard) from which two rows are near duplicates."""
WORDS_BYTES = 8192
"""So many bytes of a row take part in its signature; the rest of a longer row does not change the estimate much."""

_BATCH_BYTES = 1 << 16  # of words hashed at once: the arrays (8 bytes a byte) stay in the processor's cache
_PAIRS = 1 << 14  # compared at once: 4 MB
_EMPTY = np.uint32(0xFFFFFFFF)


class Digests:
    """Hashes of rows, packed; rows with equal hashes are exact duplicates."""

    def __init__(self) -> None:
        self._hashes, self._rows = bytearray(), bytearray()

    def add(self, row: int, digest: bytes) -> None:
        """One more row. `digest`: 16 bytes."""
        self._hashes += digest
        self._rows += row.to_bytes(8, "little")

    def extend(self, rows: Sequence[int], digests: Sequence[bytes]) -> None:
        """More rows."""
        self.absorb(np.array(rows, np.int64).tobytes(), b"".join(digests))

    def absorb(self, rows: bytes, hashes: bytes | memoryview) -> None:
        """The rows of a later part of the file: 8 bytes of number and 16 of hash each."""
        self._hashes += hashes
        self._rows += rows

    def __len__(self) -> int:
        return len(self._rows) // 8

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row numbers in the order they came."""
        return np.frombuffer(self._rows, np.int64)

    @property
    def packed(self) -> memoryview:
        """Hashes in the same order, 16 bytes each."""
        return memoryview(bytes(self._hashes))

    def duplicates(self) -> Iterator[tuple[int, int]]:
        """Each later row with the first row that says the same."""
        order, first = self._sorted()
        starts = np.flatnonzero(first)
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True) if len(order) > len(starts) else ():
            if end - start > 1:
                original, *copies = np.sort(self.rows[order[start:end]])
                yield from ((int(copy), int(original)) for copy in copies)

    def unique(self) -> NDArray[np.int64]:
        """Indices of the first occurrence of each content."""
        order, first = self._sorted()
        return np.sort(np.minimum.reduceat(order, np.flatnonzero(first))) if len(order) else order

    def _sorted(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        halves = np.frombuffer(self._hashes, np.uint64).reshape(-1, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))
        ordered = halves[order]
        first = np.ones(len(order), bool)
        first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        return order, first

    def common(self, other: Digests) -> list[tuple[int, int]]:
        """Rows of this file with a row of the `other` that says the same."""
        theirs = dict(zip(_items(other), other.rows.tolist(), strict=True))
        return [(row, theirs[digest]) for digest, row in zip(_items(self), self.rows.tolist(), strict=True) if digest in theirs]


def _items(digests: Digests) -> Iterator[bytes]:
    packed = digests.packed
    return (bytes(packed[at : at + 16]) for at in range(0, len(packed), 16))


class Signatures:
    """MinHash signatures of rows, and the pairs that are nearly alike."""

    def __init__(self, limit: int = NEAR_ROWS) -> None:
        self.limit, self.passed_over = limit, 0
        self._rows: list[int] = []
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._parts: list[NDArray[np.uint16]] = []

    def add(self, row: int, words: str) -> None:
        """One more row; beyond `limit` rows are only counted."""
        self.extend([row], [words])

    def extend(self, rows: Sequence[int], words: Sequence[str]) -> None:
        """More rows."""
        room = max(self.limit - len(self._rows), 0)
        self.passed_over += len(rows[room:])
        self._rows += rows[:room]
        for said in words[:room]:
            text = said[:WORDS_BYTES].lower().encode()
            self._waiting.append(text)
            self._waiting_bytes += len(text)
            if self._waiting_bytes >= _BATCH_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._parts.append(signatures(self._waiting))
            self._waiting, self._waiting_bytes = [], 0

    def __len__(self) -> int:
        """Rows that have a signature."""
        return len(self._rows)

    def table(self) -> NDArray[np.uint16]:
        """The signatures of all rows, ``[len(self), BINS]``."""
        self._flush()
        return np.concatenate(self._parts) if self._parts else np.zeros((0, BINS), np.uint16)

    def absorb(self, rows: NDArray[np.int64], table: NDArray[np.uint16], passed_over: int) -> None:
        """The rows of a later part of the file, with their signatures; those beyond `limit` are only counted."""
        self._flush()
        room = max(self.limit - len(self._rows), 0)
        self._rows += rows[:room].tolist()
        self._parts.append(table[:room])
        self.passed_over += passed_over + len(rows) - len(rows[:room])

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row numbers in the order of `table`."""
        return np.array(self._rows, np.int64)

    def pairs(self) -> list[tuple[int, int, float]]:
        """Each row with the earliest row it is nearly alike to, and the estimated share of common shingles."""
        table = self.table()
        best, shares = np.arange(len(table)), np.zeros(len(table))
        for earlier, later in _candidates(table):
            better = np.flatnonzero(earlier < best[later])  # few candidates are earlier than what a row has already
            for some in np.split(better, range(_PAIRS, len(better), _PAIRS)):
                early, late = earlier[some], later[some]
                share = (table[early] == table[late]).mean(axis=1)
                near = share >= NEAR_SHARE
                best[late[near]], shares[late[near]] = early[near], share[near]
        found, rows = np.flatnonzero(shares), self.rows
        return list(zip(rows[found].tolist(), rows[best[found]].tolist(), shares[found].tolist(), strict=True))


def signatures(texts: list[bytes]) -> NDArray[np.uint16]:
    """One-permutation MinHash of each text, ``[len(texts), BINS]``. Texts shorter than a shingle get a signature of their own."""
    joined = b"".join(text.ljust(SHINGLE_BYTES, b"\x00") for text in texts)
    lengths = np.array([max(len(text), SHINGLE_BYTES) for text in texts])
    windows = len(joined) - SHINGLE_BYTES + 1
    hashes = np.ndarray((windows,), "<u8", joined, strides=(1,)) * np.uint64(0x9E3779B97F4A7C15)
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)  # the mixer of splitmix64, shortened by its last round
    slots = np.repeat(np.arange(0, len(texts) * BINS, BINS), lengths)[:windows]
    slots += (hashes >> np.uint64(58)).view(np.int64)
    ends = np.cumsum(lengths)[:-1]
    for back in range(1, SHINGLE_BYTES):
        slots[ends - back] = len(texts) * BINS  # a shingle that reaches into the next text belongs to none
    table = np.full(len(texts) * BINS + 1, _EMPTY, np.uint32)
    np.minimum.at(table, slots, (hashes >> np.uint64(27)).astype(np.uint32) & np.uint32(0x7FFFFFFF))
    table = table[:-1]
    return _densified(table.reshape(-1, BINS))


def _densified(table: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """Fill empty bins from the next filled one, marked by the distance so that borrowed values do not agree by chance."""
    full = table != _EMPTY
    filled = table.copy()
    distance = 1
    while not full.all() and distance < BINS:
        borrowed, there = np.roll(table, -distance, axis=1), np.roll(table != _EMPTY, -distance, axis=1)
        take = ~full & there
        filled[take] = borrowed[take] + np.uint32(distance * 0x9E3779B1 & 0xFFFFFFFF)
        full |= take
        distance += 1
    return ((filled ^ (filled >> np.uint32(15))) & np.uint32(0xFFFF)).astype(np.uint16)


def _candidates(table: NDArray[np.uint16]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Per band, rows whose bins in the band are equal: each with the first such row and with the one before it."""
    bands = table.view(np.uint64)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        orders = threads.map(lambda band: np.argsort(bands[:, band], kind="stable"), range(BANDS))
    for band, order in enumerate(orders):
        keys = bands[order, band]
        same = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        if not len(same):
            continue
        starts = np.maximum.accumulate(np.where(np.r_[True, keys[1:] != keys[:-1]], np.arange(len(keys)), 0))
        yield order[starts[same]], order[same]
        yield order[same - 1], order[same]
