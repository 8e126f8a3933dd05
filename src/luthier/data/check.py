"""Every problem of a file, all at once, before anything is spent.

One pass over the file (a large one is shared out, see `data.pool`). Memory does not grow with it beyond 24 bytes per row (hash and number,
for duplicates) and 128 bytes for each of the first 200,000 rows (near duplicates); `bench/data.py` measures speed and memory.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from luthier.core.errors import LuthierError
from luthier.core.example import Example
from luthier.core.problem import Problem
from luthier.core.spec import DataSpec
from luthier.data.blocks import blocks
from luthier.data.bytes import OnBytes
from luthier.data.content import content, digest
from luthier.data.duplicates import NEAR_SHARE, Digests, Signatures
from luthier.data.fit import Fitting, Renders
from luthier.data.pool import Pool, workers
from luthier.data.read import Tally, as_problem, read
from luthier.data.recognise import recognise
from luthier.data.report import Report
from luthier.data.scan import Scan

FEWEST_ROWS = 10
"""Fewer rows cannot be split into something learned and something held out."""
IMBALANCE = 20
"""A label this many times rarer than the most frequent one is warned of."""


def check(
    path: Path,
    *,
    data: DataSpec,
    renderer: Renders | None = None,
    context: int | None = None,
    valid: Path | None = None,
    near: bool = True,
    on_progress: OnBytes | None = None,
) -> Report:
    """Read every row of `path` and report everything that is wrong with it.

    Args:
        data: format, group, what is learned, what happens to long rows.
        renderer, context: with both, rows longer than `context` tokens, and rows that teach nothing, are found.
        valid: file of held-out rows, checked like these, that must share none with this one. By default ``data.valid`` when that names
            a file.
        near: look for near duplicates.
        on_progress: hears bytes read and bytes in all.

    Raises:
        NotFound, StorageError: the file cannot be opened. SpecError: ``data.format`` is no format.
        Everything wrong with the content, an unknown format included, is in the report.
    """
    path = Path(path)
    report = Report(str(path))
    scan = Scan(report, data, Signatures() if near else None, Fitting(renderer, context, data) if renderer and context else None)
    try:
        report.recognition = recognise(path, format=data.format)
        report.bytes = path.stat().st_size
        count = workers(path, report.recognition)
        if count:
            _shared_out(scan, path, count, renderer, context, on_progress)
        else:
            scan.run(path, on_progress)
    except LuthierError as error:
        if error.exit_code == 2:
            raise
        report.add(as_problem(str(path), error))
        return report
    _Whole(scan).conclude(valid or (Path(data.valid) if isinstance(data.valid, str) else None))
    report.sort()
    return report


def _wanted(signatures: Signatures | None) -> int:
    return signatures.limit if signatures is not None and len(signatures) < signatures.limit else 0


def _shared_out(scan: Scan, path: Path, count: int, renderer: Renders | None, context: int | None, on_progress: OnBytes | None) -> None:
    """The scan of a large file by several processes: the same findings, in the same order."""
    report, signatures, size = scan.report, scan.signatures, path.stat().st_size
    task = {
        "work": "check",
        "file": str(path),
        "data": scan.data.model_dump(mode="json"),
        "recognition": asdict(report.recognition),
        "parts": renderer.parts.to_json() if renderer and context else None,
        "context": context,
        "near": signatures is not None,
    }
    parts, tally = list(blocks(path)), Tally()
    requests = ({"block": list(part), "near": _wanted(signatures)} for part in parts)
    with Pool(count, task) as pool:
        for part, (fields, arrays) in zip(parts, pool.answers(requests), strict=True):
            tally.add(Tally(**fields["tally"]))
            scan.absorb(fields, arrays)
            if on_progress:
                on_progress(part.stop, size)
    for problem in tally.problems(report.file):
        report.add(problem)


class _Whole:
    """What only shows when all rows of a file have been seen."""

    def __init__(self, scan: Scan) -> None:
        self.scan, self.report, self.data = scan, scan.report, scan.data

    def conclude(self, valid: Path | None) -> None:
        """Everything, the held-out file included."""
        copies = self._exact()
        self._near(copies)
        self._few()
        self._ungrouped()
        self._imbalance()
        if valid is not None:
            self._held_out(valid)

    def _exact(self) -> set[int]:
        copies: set[int] = set()
        for row, first in self.scan.digests.duplicates():
            copies.add(row)
            self.scan.warn(row, "exact_duplicate", f"The row says the same as row {first}.", "Delete one, unless it is to count twice.")
        return copies

    def _near(self, copies: set[int]) -> None:
        if self.scan.signatures is None:
            self.report.notes.append("Near duplicates were not looked for.")
            return
        for row, first, share in self.scan.signatures.pairs():
            if row not in copies:
                message = f"The row is nearly row {first}: about {share:.0%} in common (from {NEAR_SHARE:.0%} on it is told)."
                self.scan.warn(
                    row, "near_duplicate", message, "Keep one if they teach the same.", error=not self.data.allow_near_duplicates
                )
        if self.scan.signatures.passed_over:
            limit, after = self.scan.signatures.limit, self.scan.signatures.passed_over
            message = f"Near duplicates were looked for in the first {limit:,} rows; {after:,} rows came after them."
            self.report.notes.append(message)

    def _few(self) -> None:
        if self.report.good < FEWEST_ROWS:
            message = f"{self.report.good} rows can be learned from; it takes at least {FEWEST_ROWS}."
            self.scan.warn(0, "too_few_rows", message, "Add examples; 50 to 100 good ones are a beginning.", error=True)

    def _ungrouped(self) -> None:
        if self.data.group and self.report.good and not self.scan.grouped:
            message = f"No row has the group field {self.data.group!r}."
            self.scan.warn(0, "no_group", message, "Correct data.group, or leave it out.", field=self.data.group, error=True)

    def _imbalance(self) -> None:
        self.report.labels = dict(self.scan.labels.most_common())
        if len(self.scan.labels) < 2:
            return
        common, most = self.scan.labels.most_common(1)[0]
        rare = [(label, count) for label, count in self.scan.labels.items() if count * IMBALANCE <= most]
        if rare:
            told = ", ".join(f"{label} ({count})" for label, count in sorted(rare, key=lambda each: each[1])[:5])
            message = f"{len(rare)} labels are at least {IMBALANCE} times rarer than {common} ({most:,} rows): {told}."
            self.scan.warn(0, "label_imbalance", message, "Add rows of the rare labels; the model may never say them.")

    def _held_out(self, valid: Path) -> None:
        """Held-out rows must be rows that can be learned from, and none of them may be learned."""
        held = Digests()
        for item in read(valid, format=self.data.format, group=self.data.group):
            if isinstance(item, Problem):
                self.report.add(item)
            else:
                self.scan.learnable(item)
                held.add(item.source.row, digest(content(item)))
        for row, other in self.scan.digests.common(held):
            message = f"The row is also held out: {valid} row {other}."
            self.scan.warn(row, "leakage", message, "Delete it from one of the two files; otherwise the result is flattered.", error=True)


def digests(path: Path, data: DataSpec) -> Digests:
    """Hashes of all rows of a file that can be read.

    Raises:
        DataError: nothing fits the file. NotFound, StorageError: it cannot be opened.
    """
    found = Digests()
    for item in read(path, format=data.format):
        if isinstance(item, Example):
            found.add(item.source.row, digest(content(item)))
    return found
