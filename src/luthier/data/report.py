"""What a check found: all problems, counted exactly, kept up to a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from luthier.core.problem import Problem
from luthier.data.lots import Lots
from luthier.data.recognise import Recognition
from luthier.data.tokens import TokenTable

UNKNOWN = Recognition("unknown", 0.0, "No format fits.")

KEPT = 1000
"""Problems kept per code; the rest is counted. A million rows with the same fault must not fill the memory."""

PROBLEM = tuple(field.name for field in fields(Problem))
_BESIDE = ("tokens", "held_out", "lots")


@dataclass
class Report:
    """The result of `luthier.data.check.check`.

    Attributes:
        file: as the user named it. bytes: its size on disk. rows: records seen, good and bad. good: rows without an error.
        problems: at most `KEPT` per code. counts: exact number per code. severities: ``error`` or ``warning`` per code (the worse).
        notes: what was not looked at, and why. labels: rows per label, most frequent first.
        kept: problems kept per code; 0: `KEPT`.
        tokens, held_out: tokens of the file and of the held-out one, where they were asked for and nothing is wrong with the rows.
        lots: what decides the split, of the file and of the held-out one.
    """

    file: str
    recognition: Recognition = UNKNOWN
    bytes: int = 0
    rows: int = 0
    good: int = 0
    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    severities: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    errors: int = 0
    warnings: int = 0
    kept: int = 0
    tokens: TokenTable | None = None
    held_out: TokenTable | None = None
    lots: list[Lots] = field(default_factory=list)

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it while its code has room."""
        code, kept = problem.code, self.kept or KEPT
        self.counts[code] += 1
        if self.counts[code] <= kept:
            self.problems.append(problem)
        elif self.counts[code] == kept + 1:
            self.notes.append(f"Of {code} the first {kept:,} are listed; all are counted.")
        if problem.severity == "error":
            self.errors += 1
            self.severities[code] = "error"
        else:
            self.warnings += 1
            self.severities.setdefault(code, "warning")

    def add_alike(self, count: int, problem: Callable[[int], Problem]) -> None:
        """Count many problems of one code and severity; only those that are kept are made, from their number."""
        kept = min(count, (self.kept or KEPT) + 1)
        for number in range(kept):
            self.add(problem(number))
        if count > kept:
            last = problem(kept)
            self.counts[last.code] += count - kept
            self.errors += (count - kept) * (last.severity == "error")
            self.warnings += (count - kept) * (last.severity != "error")

    @property
    def ok(self) -> bool:
        """Nothing stops a run."""
        return self.errors == 0

    def told(self) -> dict[str, Any]:
        """Everything but what lies beside it, as plain fields that `retold` reads."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _BESIDE} | {
            "recognition": asdict(self.recognition),
            "problems": [[getattr(problem, name) for name in PROBLEM] for problem in self.problems],
        }

    @classmethod
    def retold(cls, told: dict[str, Any]) -> Report:
        """What `told` said."""
        problems = [Problem(*problem) for problem in told["problems"]]
        more = {"recognition": Recognition(**told["recognition"]), "problems": problems, "counts": Counter(told["counts"])}
        return cls(**{**told, **more})

    def sort(self) -> None:
        """Errors first, then by row; the order does not show how the rows were shared out."""
        self.problems.sort(key=lambda problem: (problem.severity, problem.row, problem.code, problem.field))

    def to_json(self) -> dict[str, Any]:
        """The report as plain fields."""
        return {
            "file": self.file,
            "ok": self.ok,
            "recognition": self.recognition.to_json(),
            "bytes": self.bytes,
            "rows": self.rows,
            "good": self.good,
            "errors": self.errors,
            "warnings": self.warnings,
            "counts": dict(self.counts),
            "labels": self.labels,
            "notes": self.notes,
            "problems": [problem.to_json() for problem in self.problems],
        }
