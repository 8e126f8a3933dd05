"""Every problem of a file, all at once, before anything is spent.

One pass over the file. Memory does not grow with it beyond 24 bytes per row (hash and number, for duplicates) and 128 bytes for each of the
first 200,000 rows (near duplicates); `bench/data.py` measures speed and memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from luthier.core.errors import LuthierError
from luthier.core.example import Example
from luthier.core.problem import Problem
from luthier.core.spec import DataSpec
from luthier.data.bytes import OnBytes
from luthier.data.content import content, digest, words
from luthier.data.duplicates import NEAR_SHARE, Digests, Signatures
from luthier.data.fit import Fitting, Renders
from luthier.data.read import as_problem, read
from luthier.data.recognise import recognise
from luthier.data.report import Report
from luthier.data.rules import broken
from luthier.security import pii

FEWEST_ROWS = 10
"""Fewer rows cannot be split into something learned and something held out."""
IMBALANCE = 20
"""A label this many times rarer than the most frequent one is warned of."""
_MOST_LABELS = 10_000


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
    scan = _Scan(report, data, Signatures() if near else None, Fitting(renderer, context, data) if renderer and context else None)
    try:
        report.recognition = recognise(path, format=data.format)
        report.bytes = path.stat().st_size
        scan.run(path, on_progress)
    except LuthierError as error:
        if error.exit_code == 2:
            raise
        report.add(as_problem(str(path), error))
        return report
    scan.conclude(valid or (Path(data.valid) if isinstance(data.valid, str) else None))
    report.sort()
    return report


class _Scan:
    """The pass over one file: what is remembered between rows."""

    def __init__(self, report: Report, data: DataSpec, signatures: Signatures | None, fitting: Fitting | None) -> None:
        self.report, self.data, self.fitting = report, data, fitting
        self.digests, self.signatures = Digests(), signatures
        self.labels: Counter[str] = Counter()
        self.grouped = False

    def run(self, path: Path, on_progress: OnBytes | None) -> None:
        last = 0
        for item in read(path, group=self.data.group, recognition=self.report.recognition, on_bytes=on_progress):
            if isinstance(item, Problem):
                self.report.add(item)
                if item.severity == "error" and item.row > last:
                    last, self.report.rows = item.row, self.report.rows + 1
            else:
                last, self.report.rows = item.source.row, self.report.rows + 1
                self.row(item)

    def row(self, example: Example) -> None:
        """Everything that is looked at in one row."""
        report, row = self.report, example.source.row
        report.good += self._learnable(example)
        self.grouped = self.grouped or bool(example.group)
        said = words(example)
        self._personal(example, said)
        self.digests.add(row, digest(content(example)))
        if self.signatures is not None:
            self.signatures.add(row, said)
        if example.label and (example.label in self.labels or len(self.labels) < _MOST_LABELS):
            self.labels[example.label] += 1

    def _learnable(self, example: Example) -> bool:
        """Whether the row has no error of its own; whatever is wrong with it is reported."""
        problems = broken(example, learn=self.data.learn)
        self._add_all(problems)
        good = all(problem.severity == "warning" for problem in problems)
        if good and self.fitting:
            self._add_all(self.fitting.look(example))
        return good

    def conclude(self, valid: Path | None) -> None:
        """What only shows when all rows have been seen."""
        copies = self._exact()
        self._near(copies)
        self._few()
        self._ungrouped()
        self._imbalance()
        if valid is not None:
            self._held_out(valid)

    def _add_all(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.report.add(problem)

    def _warn(self, row: int, code: str, message: str, remedy: str, *, field: str = "", error: bool = False) -> None:
        self.report.add(Problem(self.report.file, row, field, code, message, remedy, "error" if error else "warning"))

    def _personal(self, example: Example, said: str) -> None:
        found = pii.find(said)
        for secret, code in ((True, "likely_secret"), (False, "personal_data")) if found else ():
            kinds = Counter(each.kind for each in found if each.secret is secret)
            if kinds:
                told = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
                remedy = (
                    "Remove it: a tuned model can repeat it." if secret else "Replace it by a placeholder, unless the model is to learn it."
                )
                self._warn(example.source.row, code, f"The row seems to hold {told}.", remedy)

    def _exact(self) -> set[int]:
        copies: set[int] = set()
        for row, first in self.digests.duplicates():
            copies.add(row)
            self._warn(row, "exact_duplicate", f"The row says the same as row {first}.", "Delete one, unless it is to count twice.")
        return copies

    def _near(self, copies: set[int]) -> None:
        if self.signatures is None:
            self.report.notes.append("Near duplicates were not looked for.")
            return
        for row, first, share in self.signatures.pairs():
            if row not in copies:
                message = f"The row is nearly row {first}: about {share:.0%} in common (from {NEAR_SHARE:.0%} on it is told)."
                self._warn(row, "near_duplicate", message, "Keep one if they teach the same.", error=not self.data.allow_near_duplicates)
        if self.signatures.passed_over:
            limit, after = self.signatures.limit, self.signatures.passed_over
            message = f"Near duplicates were looked for in the first {limit:,} rows; {after:,} rows came after them."
            self.report.notes.append(message)

    def _few(self) -> None:
        if self.report.good < FEWEST_ROWS:
            message = f"{self.report.good} rows can be learned from; it takes at least {FEWEST_ROWS}."
            self._warn(0, "too_few_rows", message, "Add examples; 50 to 100 good ones are a beginning.", error=True)

    def _ungrouped(self) -> None:
        if self.data.group and self.report.good and not self.grouped:
            message = f"No row has the group field {self.data.group!r}."
            self._warn(0, "no_group", message, "Correct data.group, or leave it out.", field=self.data.group, error=True)

    def _imbalance(self) -> None:
        self.report.labels = dict(self.labels.most_common())
        if len(self.labels) < 2:
            return
        common, most = self.labels.most_common(1)[0]
        rare = [(label, count) for label, count in self.labels.items() if count * IMBALANCE <= most]
        if rare:
            told = ", ".join(f"{label} ({count})" for label, count in sorted(rare, key=lambda each: each[1])[:5])
            message = f"{len(rare)} labels are at least {IMBALANCE} times rarer than {common} ({most:,} rows): {told}."
            self._warn(0, "label_imbalance", message, "Add rows of the rare labels; the model may never say them.")

    def _held_out(self, valid: Path) -> None:
        """Held-out rows must be rows that can be learned from, and none of them may be learned."""
        held = Digests()
        for item in read(valid, format=self.data.format, group=self.data.group):
            if isinstance(item, Problem):
                self.report.add(item)
            else:
                self._learnable(item)
                held.add(item.source.row, digest(content(item)))
        for row, other in self.digests.common(held):
            message = f"The row is also held out: {valid} row {other}."
            self._warn(row, "leakage", message, "Delete it from one of the two files; otherwise the result is flattered.", error=True)


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
