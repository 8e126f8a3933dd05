"""What is looked at in every row of a file, and what is remembered between rows. A scan of a later part of the file can be joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.example import Example
from luthier.core.problem import Problem
from luthier.core.spec import DataSpec
from luthier.data.blocks import Block
from luthier.data.bytes import OnBytes
from luthier.data.content import content, digest, words
from luthier.data.duplicates import BINS, Digests, Signatures
from luthier.data.fit import Fitting
from luthier.data.read import Tally, read
from luthier.data.report import Report
from luthier.data.rules import broken
from luthier.security import pii

_MOST_LABELS = 10_000


class Scan:
    """The pass over the rows of a file, or of a part of it.

    Args:
        report: gets what is found. signatures: for near duplicates, unless they are not looked for. fitting: looks at lengths.
    """

    def __init__(self, report: Report, data: DataSpec, signatures: Signatures | None, fitting: Fitting | None) -> None:
        self.report, self.data, self.fitting = report, data, fitting
        self.digests, self.signatures = Digests(), signatures
        self.labels: Counter[str] = Counter()
        self.grouped = False

    def run(self, path: Path, on_progress: OnBytes | None = None, *, block: Block | None = None, tally: Tally | None = None) -> None:
        """Read the file, or one block of it; then what is told once per file goes to `tally`."""
        last, known = 0, self.report.recognition
        for item in read(path, group=self.data.group, recognition=known, on_bytes=on_progress, block=block, tally=tally):
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
        report.good += self.learnable(example)
        self.grouped = self.grouped or bool(example.group)
        said = words(example)
        self._personal(example, said)
        self.digests.add(row, digest(content(example)))
        if self.signatures is not None:
            self.signatures.add(row, said)
        if example.label:
            self._label(example.label, 1)

    def learnable(self, example: Example) -> bool:
        """Whether the row has no error of its own; whatever is wrong with it is reported."""
        problems = broken(example, learn=self.data.learn)
        self._add_all(problems)
        good = all(problem.severity == "warning" for problem in problems)
        if good and self.fitting:
            self._add_all(self.fitting.look(example))
        return good

    def told(self) -> tuple[dict[str, Any], list[bytes]]:
        """Everything found, as plain fields and as bytes."""
        report, signatures = self.report, self.signatures
        fields = {
            "problems": [asdict(problem) for problem in report.problems],
            "rows": report.rows,
            "good": report.good,
            "labels": self.labels,
            "grouped": self.grouped,
            "passed_over": signatures.passed_over if signatures is not None else 0,
        }
        near = [signatures.rows.tobytes(), signatures.table().tobytes()] if signatures is not None else [b"", b""]
        return fields, [self.digests.rows.tobytes(), bytes(self.digests.packed), *near]

    def absorb(self, fields: dict[str, Any], arrays: list[bytes]) -> None:
        """Join what was `told` of a later part of the file."""
        self._add_all(Problem(**problem) for problem in fields["problems"])
        self.report.rows += fields["rows"]
        self.report.good += fields["good"]
        self.grouped = self.grouped or fields["grouped"]
        for label, count in fields["labels"].items():
            self._label(label, count)
        rows, hashes, near, table = arrays
        self.digests.absorb(rows, hashes)
        if self.signatures is not None:
            self.signatures.absorb(np.frombuffer(near, np.int64), np.frombuffer(table, np.uint16).reshape(-1, BINS), fields["passed_over"])

    def warn(self, row: int, code: str, message: str, remedy: str, *, field: str = "", error: bool = False) -> None:
        """Report a finding about a row."""
        self.report.add(Problem(self.report.file, row, field, code, message, remedy, "error" if error else "warning"))

    def _add_all(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.report.add(problem)

    def _label(self, label: str, count: int) -> None:
        if label in self.labels or len(self.labels) < _MOST_LABELS:
            self.labels[label] += count

    def _personal(self, example: Example, said: str) -> None:
        found = pii.find(said)
        for secret, code in ((True, "likely_secret"), (False, "personal_data")) if found else ():
            kinds = Counter(each.kind for each in found if each.secret is secret)
            if kinds:
                told = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
                remedy = (
                    "Remove it: a tuned model can repeat it." if secret else "Replace it by a placeholder, unless the model is to learn it."
                )
                self.warn(example.source.row, code, f"The row seems to hold {told}.", remedy)
