"""From a file to Examples, streaming: the container gives rows, the reader their meaning, and what is wrong comes along as Problems."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, LuthierError
from luthier.core.example import Example, Source
from luthier.core.problem import Problem
from luthier.data.blocks import Block
from luthier.data.bytes import OnBytes, opened
from luthier.data.containers.lines import blank_lines, rows
from luthier.data.json_rows import Flaw, Record
from luthier.data.readers._findings import Findings
from luthier.data.recognise import CONTAINERS, READERS, Recognition, recognise

MOST_UNUSED = 1000
"""Fields remembered that nobody uses."""


def read(
    path: Path,
    *,
    format: str = "auto",
    group: str = "",
    recognition: Recognition | None = None,
    on_bytes: OnBytes | None = None,
    block: Block | None = None,
    tally: Tally | None = None,
    wanted: frozenset[int] | None = None,
) -> Iterator[Example | Problem]:
    """The rows of a file, one after the other, in memory that does not grow with it.

    A row with errors yields its Problems and no Example; one with warnings yields both. Fields that nobody uses are told at the end,
    once per field.

    Args:
        format: a reader, or auto. group: field whose value goes into `Example.group`. recognition: what `recognise` found, to save a look.
        on_bytes: hears bytes read and bytes in all.
        block: read only this part. tally: gets what is told once per file, instead of telling it here at the end.
        wanted: numbers of the rows to read, where only some are; other lines are not even parsed.

    Raises:
        DataError: nothing fits the file. NotFound, StorageError: it cannot be opened.
    """
    known = recognition or recognise(path, format=format)
    reader = READERS.load(known.format)
    findings = Findings(str(path))
    told = tally or Tally()
    unused = _Unused(reader.KNOWN | {group} if group else reader.KNOWN, told)
    file = str(path)
    some = block is not None or (wanted is not None and known.container == "lines")
    for item in _some_lines(path, block, told, wanted) if some else records(path, known, on_bytes=on_bytes):
        if isinstance(item, Flaw):
            yield problem(file, item)
            continue
        findings.begin(item.row)
        fields = item.fields
        if not fields.keys() <= unused.known:
            unused.look(fields, findings)
        example = reader.example(fields, Source(file, item.row), findings)
        if findings.problems:
            yield from findings.problems
        if example is not None and not findings.errors and (wanted is None or item.row in wanted):
            if group:
                example.group = _group(fields, group)
            yield example
    if tally is None:
        yield from told.problems(file)


def records(path: Path, recognition: Recognition, *, on_bytes: OnBytes | None = None) -> Iterator[Record | Flaw]:
    """The rows as their container holds them. A file that breaks off in the middle ends with a flaw at row 0."""
    with opened(path, on_bytes) as stream:
        try:
            yield from CONTAINERS.load(recognition.container).records(stream, recognition.details)
        except DataError as error:
            yield Flaw(0, "", error.code, error.what, error.remedy)


def problem(file: str, flaw: Flaw) -> Problem:
    """A flaw as a Problem of `file`."""
    return Problem(file, flaw.row, flaw.field, flaw.code, flaw.message, flaw.remedy, "warning" if flaw.severity == "warning" else "error")


def as_problem(file: str, error: LuthierError) -> Problem:
    """What stopped the reading of a whole file, as a Problem."""
    return Problem(file, 0, "", error.code, error.what, error.remedy)


def _group(fields: dict[str, Any], group: str) -> str:
    value = fields.get(group)
    return "" if value is None else str(value)


def _some_lines(path: Path, block: Block | None, tally: Tally, wanted: frozenset[int] | None) -> Iterator[Record | Flaw]:
    with opened(path, span=(block.start, block.stop) if block else None) as stream:
        blank, first = yield from rows(stream, first=block.row if block else 1, wanted=wanted)
        tally.add(Tally(blank=blank, first_blank=first))


@dataclass
class Tally:
    """What is told once per file, however many rows have it.

    Attributes:
        unused: fields nobody uses, each with its first row and the number of rows that have it. blank, first_blank: blank lines.
    """

    unused: dict[str, list[int]] = field(default_factory=dict)
    blank: int = 0
    first_blank: int = 0

    def add(self, later: Tally) -> None:
        """Join the tally of a later part of the file."""
        for key, (row, count) in later.unused.items():
            if key in self.unused:
                self.unused[key][1] += count
            elif len(self.unused) < MOST_UNUSED:
                self.unused[key] = [row, count]
        self.blank, self.first_blank = self.blank + later.blank, self.first_blank or later.first_blank

    def problems(self, file: str) -> Iterator[Problem]:
        """The findings of the whole file."""
        if self.blank:
            yield problem(file, blank_lines(self.blank, self.first_blank))
        for key, (row, count) in self.unused.items():
            message = f"The field {key!r} is not used; rows that have it: {count:,}, first here."
            remedy = "Leave it, or name it in data.group if rows of one value belong together."
            yield Problem(file, row, key, "unknown_field", message, remedy, "warning")


class _Unused:
    """Fields that the reader does not use. A name that is nearly a known one is an error in its row: it was meant to be used."""

    def __init__(self, known: frozenset[str], tally: Tally) -> None:
        self.known = known
        self._seen = tally.unused

    def look(self, fields: dict[str, Any], findings: Findings) -> None:
        for key in fields.keys() - self.known:
            meant = _meant(key, self.known)
            if meant and meant not in fields:
                findings.add(key, "unknown_field", f"There is no field {key!r}.", f"Did you mean {meant}?")
            elif (seen := self._seen.get(key)) is not None:
                seen[1] += 1
            elif len(self._seen) < MOST_UNUSED:  # keys made of data (an id as a key) must not fill the memory
                self._seen[key] = [findings.row, 1]


@lru_cache(maxsize=4096)
def _meant(key: str, known: frozenset[str]) -> str:
    near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.85)
    return near[0] if near else ""
