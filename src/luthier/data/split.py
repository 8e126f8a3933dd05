"""Which rows are held out. Decided by what a row says, not by where it stands, so that a file can grow and be reordered.

* Without labels a row is held out when the hash of its content (of its group's value, where a group field is named) falls below the
  share. Its side depends on nothing else: rows that are added never move another.
* With labels the hash ranks the rows of each label, and the first of each are held out: every label gets its share exactly. The price: rows
  that are added can move those at the border, at most as many as were added, per label. A label is what a label column says; without
  one, the first line of the answers, where few short ones begin them all (see `data.first_line`).
* Equal rows have equal hashes, so they are always on the same side - unless they belong to different groups: then the split is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError, SpecError
from luthier.core.example import Example
from luthier.core.files import writing
from luthier.core.spec import DataSpec
from luthier.data.bytes import OnBytes
from luthier.data.check import FEWEST_ROWS
from luthier.data.content import content, digest
from luthier.data.duplicates import Digests
from luthier.data.json_rows import Flaw, Record, compact
from luthier.data.lots import Lots
from luthier.data.read import read, records
from luthier.data.recognise import recognise

_WHOLE = 2.0**64
_AT_ONCE = 2048


@dataclass
class Split:
    """Row numbers (1-based, as in `Source.row`) on each side, ascending.

    Attributes:
        reason: how it was decided, as a sentence.
    """

    train: list[int]
    valid: list[int]
    reason: str


def plan_split(path: Path, *, data: DataSpec, seed: int = 0, lots: Sequence[Lots] = (), on_progress: OnBytes | None = None) -> Split:
    """Decide which rows of `path` are held out.

    Args:
        data: ``valid`` is the share held out (0 to 0.5), or a file of held-out rows; ``group`` the field that keeps rows together.
        seed: another seed gives another split.
        lots: of the file, and of the held-out one, where they were checked just now; left out, the files are read.

    Raises:
        DataError: rows are in both files (``leakage``), all rows would be held out, or the file cannot be read.
        SpecError: the share is out of range.
    """
    path, known = Path(path), list(lots) or [_gathered(Path(path), data, on_progress)]
    if isinstance(data.valid, str):
        return _by_file(path, known, data)
    if not 0 <= data.valid <= 0.5:
        raise SpecError(f"data.valid = {data.valid} is no share to hold out.", remedy="Use 0 to 0.5, or name a file.", code="bad_value")
    if data.group and not known[0].grouped:
        raise DataError(f"No row has the group field {data.group!r}.", where=str(path), remedy="Correct data.group.", code="no_group")
    rows, labels = known[0].numbers(), known[0].labels()
    places = _places(known[0].deciding(), seed)
    held, reason = _drawn(places, labels, data)
    if not held.any() and data.valid > 0 and len(rows) >= FEWEST_ROWS:
        held = places == places.min()
        reason = f"{reason}, the lowest because none fell below the share"
    if len(rows) and held.all():
        raise _one_side(path, len(rows), data.group)
    if data.group:
        _apart(path, known[0].said(), set(rows[held].tolist()), data.group)
    reason = f"{held.sum():,} of {len(rows):,} rows are held out, {reason}."
    return Split(rows[~held].tolist(), rows[held].tolist(), reason)


def _gathered(path: Path, data: DataSpec, on_progress: OnBytes | None = None) -> Lots:
    lots, rows = Lots(), list[Example]()

    def enter() -> None:
        lots.enter(rows, [digest(content(row)) for row in rows])
        rows.clear()

    for item in read(path, format=data.format, group=data.group, on_bytes=on_progress):
        if isinstance(item, Example):
            rows.append(item)
            if len(rows) == _AT_ONCE:
                enter()
    enter()
    return lots


def _places(deciding: list[bytes], seed: int) -> NDArray[np.float64]:
    """Where the hash of what decides about each row stands between 0 and 1."""
    key = seed.to_bytes(8, "little")
    drawn = b"".join([blake2b(each, digest_size=8, key=key).digest() for each in deciding])
    return np.frombuffer(drawn, "<u8") / _WHOLE


def _drawn(places: NDArray[np.float64], labels: NDArray[np.int64] | None, data: DataSpec) -> tuple[NDArray[np.bool_], str]:
    share = float(data.valid)
    if data.group:
        return places < share, f"by the hash of {data.group}: rows of one {data.group} stay together"
    if labels is None:
        return places < share, "by the hash of the content"
    held = np.zeros(len(places), bool)
    for label in np.unique(labels):
        mine = labels == label
        held[mine] = places[mine] < _border(np.unique(places[mine]), share)
    return held, "by the hash of the content within each label"


def _border(places: NDArray[np.float64], share: float) -> float:
    """The place below which as many of the distinct `places` lie as the share says (rounded)."""
    count = int(len(places) * share + 0.5)
    return float(places[count]) if count < len(places) else 1.0


def _apart(path: Path, said: Digests, held: set[int], group: str) -> None:
    """Refuse rows that say the same and were parted because their groups are on different sides."""
    parted = [(copy, first) for copy, first in said.duplicates() if (copy in held) != (first in held)]
    if parted:
        told = ", ".join(f"row {copy} = row {first}" for copy, first in parted[:5]) + (" ..." if len(parted) > 5 else "")
        raise DataError(
            f"{len(parted):,} rows say the same as a row of another {group} that is on the other side of the split: {told}.",
            where=str(path),
            remedy="Delete one of each, or leave data.group out; otherwise the result is flattered.",
            code="leakage",
        )


def _by_file(path: Path, lots: list[Lots], data: DataSpec) -> Split:
    valid = Path(str(data.valid))
    mine, theirs = lots if len(lots) > 1 else (lots[0], _gathered(valid, data))
    shared = mine.said().common(theirs.said())
    if shared:
        raise _leakage(path, valid, shared)
    return Split(mine.numbers().tolist(), theirs.numbers().tolist(), f"Held out as you said: {valid}.")


def _one_side(path: Path, rows: int, group: str) -> DataError:
    what = f"have the same {group}" if group else "say the same"
    return DataError(
        f"The rows cannot be split: all {rows:,} of them {what}, so they stay on one side.",
        where=str(path),
        remedy="Add other rows, or give a file of held-out rows.",
        code="too_few_rows",
    )


def _leakage(path: Path, valid: Path, shared: list[tuple[int, int]]) -> DataError:
    told = ", ".join(f"row {row} = row {other}" for row, other in shared[:5]) + (" ..." if len(shared) > 5 else "")
    return DataError(
        f"{len(shared):,} rows are also in the held-out file {valid}: {told}.",
        where=str(path),
        remedy="Delete them from one of the two files; otherwise the result is flattered.",
        code="leakage",
    )


def write_split(path: Path, split: Split, *, train: Path, valid: Path, data: DataSpec) -> None:
    """Write both sides as JSON lines, each row with the fields it had. Each file appears whole or not at all.

    Raises:
        StorageError: it cannot be written. DataError: a row cannot be read.
    """
    held, learned = set(split.valid), set(split.train)
    with writing(train) as train_sink, writing(valid) as valid_sink:
        for item in records(path, recognise(path, format=data.format)):
            if isinstance(item, Record) and (item.row in held or item.row in learned):
                (valid_sink if item.row in held else train_sink).write(compact(item.fields) + b"\n")
            elif isinstance(item, Flaw) and item.severity == "error":
                raise DataError(item.message, where=f"{path} row {item.row}", remedy=item.remedy, code=item.code)
