"""What a table of characters is: encoding, delimiter, quoting, header, and which column plays which part. Guessed once, always reported."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from charset_normalizer import from_bytes

from luthier.data.bytes import opened

TEXT_NAMES = ("text", "sentence", "utterance", "message", "query", "question", "review", "comment", "body", "content")
FIRST_NAMES = ("sentence1", "premise", "text1")
"""Columns that hold the first of two texts; beside one of `PAIR_NAMES`, which holds the second, any of `TEXT_NAMES` does too."""
PAIR_NAMES = ("pair", "text_pair", "sentence2", "hypothesis", "text2")
IMAGE_NAMES = ("image", "image_path", "picture", "file_name")
SOUND_NAMES = ("audio", "audio_path", "sound", "wav")
LABEL_NAMES = ("label", "labels", "category", "class", "intent", "target", "sentiment", "topic", "transcription", "transcript")
_NAMES = {
    *TEXT_NAMES,
    *FIRST_NAMES,
    *PAIR_NAMES,
    *IMAGE_NAMES,
    *SOUND_NAMES,
    *LABEL_NAMES,
    "prompt",
    "completion",
    "response",
    "answer",
    "instruction",
    "input",
    "output",
    "chosen",
    "rejected",
    "system",
    "id",
}
_NAME = re.compile(r"[A-Za-z_][\w .\-]{0,39}")
DELIMITERS = (",", "\t", ";", "|")


def encoding(path: Path, start: bytes) -> str:
    """UTF-8 when every byte of the file is; else what the offending part looks like. Reads the file once, at disk speed."""
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with opened(path) as stream:
        while piece := stream.piece():
            try:
                decoder.decode(piece)
            except UnicodeDecodeError:
                return _single_byte(piece)
    return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"


def _single_byte(piece: bytes) -> str:
    """Western by default: short samples mislead statistics, and Windows-1252 is what spreadsheets write."""
    lines = [line for line in piece.split(b"\n") if not line.isascii()][:200]
    best = from_bytes(b"\n".join(lines), cp_isolation=["cp1252", "cp1251", "shift_jis", "gb18030"]).best()
    return best.encoding if best and len(lines) >= 20 else "cp1252"


def delimiter(lines: Sequence[str], preferred: str) -> tuple[str, int, float]:
    """The character that cuts most lines into the same number (at least two) of columns.

    Args:
        preferred: wins a tie; what the file's name suggests.

    Returns:
        the delimiter, the number of columns, and the share of records that have it. Share 0 when nothing cuts.
    """
    best = (preferred, 1, 0.0)
    for mark in sorted(DELIMITERS, key=lambda mark: mark != preferred):
        widths = Counter(len(record) for record in csv.reader(lines, delimiter=mark) if record)
        width, count = widths.most_common(1)[0] if widths else (1, 0)
        share = count / max(1, widths.total()) if width > 1 else 0.0
        if share > best[2] + (0.0 if best[2] == 0 else 0.02):
            best = (mark, width, share)
    return best


def quoted(lines: Sequence[str], mark: str) -> bool:
    """Whether quotes are syntax (they hide a delimiter, a line end or a doubled quote) or just words.

    Commas need quotes sooner or later, so with commas they are syntax unless the lines contradict it.
    """
    if mark == ",":
        return True
    try:
        strict = list(csv.reader(lines, delimiter=mark, strict=True))
    except csv.Error:
        return False
    literal = list(csv.reader(lines, delimiter=mark, quoting=csv.QUOTE_NONE))
    if len(strict) != len(literal) or any(len(a) != len(b) for a, b in zip(strict, literal, strict=True)):
        return len({len(record) for record in strict if record}) == 1
    return '""' in "".join(lines)


def has_header(records: Sequence[Sequence[str]]) -> tuple[bool, str]:
    """Whether the first record names the columns, and why."""
    first, rest = records[0], records[1:]
    known = [cell for cell in first if cell.strip().lower() in _NAMES]
    if known:
        return True, f"its first line names columns ({', '.join(first)})"
    names = len(set(first)) == len(first) and all(_NAME.fullmatch(cell) for cell in first)
    repeated = any(cell == record[i] for i, cell in enumerate(first) for record in rest if i < len(record))
    longer = any(
        sum(len(record[i]) for record in rest if i < len(record)) > 1.5 * len(first[i]) * max(1, len(rest)) for i in range(len(first))
    )
    if names and not repeated and longer and rest:
        return True, f"its first line looks like names ({', '.join(first)})"
    return False, "its first line looks like data"


def parts(records: Sequence[Sequence[str]], names: Sequence[str] | None) -> tuple[dict[str, str], str]:
    """Which column plays which part when names do not tell: for two columns, a label and a text, or a question and an answer.

    Args:
        records: data records. names: the header, or None.

    Returns:
        new name of each column that gets one (by its old name, ``1``, ``2`` ... without a header), and the reason.
    """
    names = list(names or [])
    if len(records[0]) != 2 or {name.strip().lower() for name in names} & _NAMES:
        return {}, ""
    old = names or ["1", "2"]
    repeats = [1 - len({record[i] for record in records}) / len(records) for i in (0, 1)]
    lengths = [sum(len(record[i]) for record in records) / len(records) for i in (0, 1)]
    label = 0 if (repeats[0], -lengths[0]) > (repeats[1], -lengths[1]) else 1
    if repeats[label] > 0.5 and lengths[label] < 40 and lengths[label] < lengths[1 - label]:
        distinct = len({record[label] for record in records})
        return {old[label]: "label", old[1 - label]: "text"}, f"column {old[label]} holds {distinct} values again and again: a label"
    return {old[0]: "prompt", old[1]: "completion"}, f"two columns of words: {old[0]} is taken as the question, {old[1]} as the answer"
