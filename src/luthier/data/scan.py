"""What is looked at in every row of a file, and what is remembered between rows. A scan of a later part of the file can be joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.example import Example
from luthier.core.problem import Problem
from luthier.core.spec import DataSpec
from luthier.data.blocks import Block
from luthier.data.bytes import OnBytes
from luthier.data.content import content, digest, words
from luthier.data.duplicates import BINS, Signatures
from luthier.data.lots import Lots
from luthier.data.press import BATCH, Press
from luthier.data.read import Tally, read
from luthier.data.report import PROBLEM, Report
from luthier.data.rules import broken
from luthier.data.too_long import Fitted
from luthier.security import pii


class Scan:
    """The pass over the rows of a file, or of a part of it.

    Args:
        report: gets what is found. signatures: for near duplicates, unless they are not looked for.
        press: makes tokens of the rows; what cannot be made is a problem, too.
    """

    def __init__(self, report: Report, data: DataSpec, *, signatures: Signatures | None = None, press: Press | None = None) -> None:
        self.report, self.data, self.press = report, data, press
        self.lots, self.signatures = Lots(), signatures

    def run(self, path: Path, on_progress: OnBytes | None = None, *, block: Block | None = None, tally: Tally | None = None) -> None:
        """Read the file, or one block of it; then what is told once per file goes to `tally`."""
        last, rows = 0, list[Example]()
        for item in read(path, group=self.data.group, recognition=self.report.recognition, on_bytes=on_progress, block=block, tally=tally):
            if isinstance(item, Problem):
                self.report.add(item)
                if item.severity == "error" and item.row > last:
                    last, self.report.rows = item.row, self.report.rows + 1
                continue
            last, self.report.rows = item.source.row, self.report.rows + 1
            rows.append(item)
            if len(rows) == BATCH:
                self.rows(rows)
                rows = []
        self.rows(rows)

    def rows(self, rows: list[Example]) -> None:
        """Everything that is looked at in some rows."""
        lawful = [row for row in rows if self._lawful(row)]
        self.report.good += len(lawful) - (self._pressed(lawful) if self.press else 0)
        said = [words(row) for row in rows]
        for place in pii.suspects(said):
            self._personal(rows[place], said[place])
        numbers = [row.source.row for row in rows]
        self.lots.enter(rows, [digest(content(row)) for row in rows])
        if self.signatures is not None:
            self.signatures.extend(numbers, said)

    def _lawful(self, row: Example) -> bool:
        """Whether a row keeps all rules; whatever is wrong with it is reported."""
        problems = broken(row, learn=self.data.learn)
        self._add_all(problems)
        return all(problem.severity == "warning" for problem in problems)

    def _pressed(self, rows: list[Example]) -> int:
        """Tell which rows cannot be learned as they are; returns how many cannot be learned at all."""
        assert self.press is not None
        refused = 0
        for row, found in self.press.rows(rows):
            if isinstance(found, Fitted):
                remedy = f"data.too_long is {self.data.too_long}: so it will be done, and the ledger says where."
                self.warn(
                    row.source.row, "too_long", f"Longer than the {self.press.context:,} tokens the model reads; {found.reason}.", remedy
                )
            else:
                refused += 1
                self.warn(row.source.row, found.code if found.code != "data" else "not_rendered", found.what, found.remedy, error=True)
        return refused

    def told(self) -> tuple[dict[str, Any], list[bytes]]:
        """Everything found, as plain fields and as bytes."""
        report, signatures = self.report, self.signatures
        told = {
            "problems": [[getattr(problem, name) for name in PROBLEM] for problem in report.problems],
            "rows": report.rows,
            "good": report.good,
            "passed_over": signatures.passed_over if signatures is not None else 0,
        }
        near = [signatures.rows.tobytes(), signatures.table().tobytes()] if signatures is not None else [b"", b""]
        ledger = self.press.ledger.told() if self.press else b""
        return told, [self.lots.told(), *near, ledger]

    def absorb(self, fields: dict[str, Any], arrays: list[bytes]) -> None:
        """Join what was `told` of a later part of the file."""
        self._add_all(Problem(*problem) for problem in fields["problems"])
        self.report.rows += fields["rows"]
        self.report.good += fields["good"]
        lots, near, table, ledger = arrays
        self.lots.absorb(lots)
        if self.signatures is not None:
            self.signatures.absorb(np.frombuffer(near, np.int64), np.frombuffer(table, np.uint16).reshape(-1, BINS), fields["passed_over"])
        if self.press is not None:
            self.press.ledger.absorb(ledger)

    def warn(self, row: int, code: str, message: str, remedy: str, *, field: str = "", error: bool = False) -> None:
        """Report a finding about a row."""
        self.report.add(Problem(self.report.file, row, field, code, message, remedy, "error" if error else "warning"))

    def _add_all(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.report.add(problem)

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
