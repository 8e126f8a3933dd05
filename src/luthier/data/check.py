"""Every problem of a file, all at once, before anything is spent; and, in the same pass, its tokens.

Each row is read once (`data.survey`). Memory does not grow with the file beyond 24 bytes per row (hash and number, for duplicates), 128
bytes for each of the first 200,000 rows (near duplicates), and some 60 bytes of ledger per row where tokens are made; `bench/data.py`
measures speed and memory.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from pathlib import Path

from luthier.core.errors import LuthierError, StorageError
from luthier.core.files import fingerprint, sha256, write_bytes
from luthier.core.problem import Problem
from luthier.core.spec import DataSpec
from luthier.data.bytes import OnBytes
from luthier.data.duplicates import NEAR_SHARE, Signatures
from luthier.data.json_rows import compact
from luthier.data.lots import Lots
from luthier.data.press import Press
from luthier.data.read import as_problem
from luthier.data.recognise import recognise
from luthier.data.render import Renderer
from luthier.data.report import Report
from luthier.data.rules import Severity
from luthier.data.scan import Scan
from luthier.data.survey import survey
from luthier.data.tokenise import complete, made, name_of
from luthier.data.tokens import TokenTable

FEWEST_ROWS = 10
"""Fewer rows cannot be split into something learned and something held out."""
IMBALANCE = 20
"""A label this many times rarer than the most frequent one is warned of."""

MOST_LABELS = 10_000
"""So many labels are listed in a report, the most frequent first."""


def check(
    path: Path,
    *,
    data: DataSpec,
    renderer: Renderer | None = None,
    context: int | None = None,
    valid: Path | None = None,
    near: bool = True,
    pairs: bool = True,
    cache: Path | None = None,
    on_progress: OnBytes | None = None,
) -> Report:
    """Read every row of `path` and report everything that is wrong with it.

    Args:
        data: format, group, what is learned, what happens to long rows.
        renderer, context: with both, rows become tokens: those longer than `context`, those that the template does not show, and those
            that teach nothing, are found.
        valid: file of held-out rows, checked like these, that must share none with this one. By default ``data.valid`` when that names
            a file.
        near: look for near duplicates. pairs: pairs become tokens as pairs, else their chosen answer.
        cache: folder for token tables; with it those of a file without errors are kept, see `Report.tokens`.
        on_progress: hears bytes read and bytes in all.

    Raises:
        NotFound, StorageError: the file cannot be opened. SpecError: ``data.format`` is no format.
        Everything wrong with the content, an unknown format included, is in the report.
    """
    path = Path(path)
    held_out = valid or (Path(data.valid) if isinstance(data.valid, str) else None)
    press = Press(renderer, data, context=context, pairs=pairs) if renderer and context else None
    kept = _Kept([path, *([held_out] if held_out else [])], press, cache, near) if press and cache else None
    if kept and (known := kept.report()):
        return known
    report = Report(str(path))
    scan = Scan(report, data, signatures=Signatures() if near else None, press=press)
    try:
        report.tokens = _looked(scan, path, kept.tables[0] if kept else None, on_progress)
    except LuthierError as error:
        if error.exit_code == 2:
            raise
        report.add(as_problem(str(path), error))
        return report
    report.lots.append(scan.lots)
    whole = _Whole(scan)
    whole.conclude()
    if held_out is not None:
        report.held_out = whole.beside(held_out, kept.tables[1] if kept else None)
    report.sort()
    if kept and report.ok:
        kept.keep(report)
    return report


class _Kept:
    """The report of files without errors, and their tables: the same question again is answered without reading a row."""

    def __init__(self, files: list[Path], press: Press, cache: Path, near: bool) -> None:
        hashes = [(str(file), sha256(file) if file.is_file() else "") for file in files]
        asked = [hashes, press.data.model_dump(mode="json", exclude={"file", "valid"}), near]
        name = name_of(press, fingerprint(asked))
        self.file = cache / "reports" / f"{name}.json"
        self.tables = [cache / f"{name}{part}" for part in ("", "-held-out")[: len(files)]]

    def report(self) -> Report | None:
        """The report, where it and all tables are there."""
        try:
            report = Report.retold(json.loads(self.file.read_text(encoding="utf-8")))
            report.tokens, report.held_out = [*map(TokenTable.open, self.tables), None][:2]
            report.lots = [Lots.load(table / "lots.parquet") for table in self.tables]
        except (OSError, ValueError, KeyError, TypeError, StorageError):
            return None  # not there, or damaged: read the files
        return report

    def keep(self, report: Report) -> None:
        """Keep what was found."""
        write_bytes(self.file, compact(report.told()))


class _NotKept(Exception):
    """The rows have errors: there will be no table of them."""


def _looked(scan: Scan, path: Path, table: Path | None, on_progress: OnBytes | None) -> TokenTable | None:
    """Read the file; the table of its tokens, where one is kept."""
    report = scan.report
    report.recognition = recognise(path, format=scan.data.format)
    report.bytes = path.stat().st_size
    if table is None or scan.press is None:
        survey(scan, path, on_progress=on_progress)
        return None
    with suppress(_NotKept), made(table) as part:
        survey(scan, path, into=part, on_progress=on_progress)
        if report.errors:
            raise _NotKept
        scan.lots.save(part / "lots.parquet")
        complete(part, scan.press.ledger)
    return None if report.errors else TokenTable.open(table)


class _Whole:
    """What only shows when all rows of a file have been seen."""

    def __init__(self, scan: Scan) -> None:
        self.scan, self.report, self.data, self.said = scan, scan.report, scan.data, scan.lots.said()

    def conclude(self) -> None:
        """Everything that concerns this file alone."""
        copies = self._exact()
        self._near(copies)
        self._few()
        self._ungrouped()
        self._imbalance()

    def _exact(self) -> set[int]:
        copies: set[int] = set()
        for row, first in self.said.duplicates():
            copies.add(row)
            self.scan.warn(row, "exact_duplicate", f"The row says the same as row {first}.", "Delete one, unless it is to count twice.")
        return copies

    def _near(self, copies: set[int]) -> None:
        if self.scan.signatures is None:
            self.report.notes.append("Near duplicates were not looked for.")
            return
        pairs = [pair for pair in self.scan.signatures.pairs() if pair[0] not in copies]
        severity: Severity = "warning" if self.data.allow_near_duplicates else "error"

        def told(number: int) -> Problem:
            row, first, share = pairs[number]
            message = f"The row is nearly row {first}: about {share:.0%} in common (from {NEAR_SHARE:.0%} on it is told)."
            return Problem(self.report.file, row, "", "near_duplicate", message, "Keep one if they teach the same.", severity)

        self.report.add_alike(len(pairs), told)
        if self.scan.signatures.passed_over:
            limit, after = self.scan.signatures.limit, self.scan.signatures.passed_over
            message = f"Near duplicates were looked for in the first {limit:,} rows; {after:,} rows came after them."
            self.report.notes.append(message)

    def _few(self) -> None:
        if self.report.good < FEWEST_ROWS:
            message = f"{self.report.good} rows can be learned from; it takes at least {FEWEST_ROWS}."
            self.scan.warn(0, "too_few_rows", message, "Add examples; 50 to 100 good ones are a beginning.", error=True)

    def _ungrouped(self) -> None:
        if self.data.group and self.report.good and not self.scan.lots.grouped:
            message = f"No row has the group field {self.data.group!r}."
            self.scan.warn(0, "no_group", message, "Correct data.group, or leave it out.", field=self.data.group, error=True)

    def _imbalance(self) -> None:
        labels = self.scan.lots.counts()
        self.report.labels = dict(labels.most_common(MOST_LABELS))
        if len(labels) < 2:
            return
        common, most = labels.most_common(1)[0]
        rare = [(label, count) for label, count in labels.items() if count * IMBALANCE <= most]
        if rare:
            told = ", ".join(f"{label} ({count})" for label, count in sorted(rare, key=lambda each: each[1])[:5])
            message = f"{len(rare)} labels are at least {IMBALANCE} times rarer than {common} ({most:,} rows): {told}."
            self.scan.warn(0, "label_imbalance", message, "Add rows of the rare labels; the model may never say them.")

    def beside(self, valid: Path, table: Path | None) -> TokenTable | None:
        """Held-out rows must be rows that can be learned from, and none of them may be learned. Returns the table of their tokens."""
        press = self.scan.press
        again = Press(press.renderer, self.data, context=press.context, pairs=press.pairs) if press else None
        held = Scan(Report(str(valid), kept=sys.maxsize), self.data, press=again)
        tokens = _looked(held, valid, table, None)
        self.report.lots.append(held.lots)
        for problem in held.report.problems:
            self.report.add(problem)
        for row, other in self.said.common(held.lots.said()):
            message = f"The row is also held out: {valid} row {other}."
            self.scan.warn(row, "leakage", message, "Delete it from one of the two files; otherwise the result is flattered.", error=True)
        return tokens
