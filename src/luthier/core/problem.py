"""One finding about the data: where it is, what is wrong, what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(slots=True, frozen=True)
class Problem:
    """A finding of the data check.

    Attributes:
        file: the file as the user named it.
        row: 1-based line (or record) in that file; 0 when the finding concerns the whole file.
        field: dotted path inside the row, e.g. ``messages.2.content``; empty for the whole row.
        code: stable name, e.g. ``empty_answer``; each has an entry in ``docs/errors.md``.
        message: what is wrong, with values.
        remedy: what to do.
        severity: an ``error`` stops the run, a ``warning`` is listed and kept in the report.
    """

    file: str
    row: int
    field: str
    code: str
    message: str
    remedy: str
    severity: Literal["error", "warning"] = "error"

    def to_json(self) -> dict[str, Any]:
        """The finding as plain fields."""
        return asdict(self)

    def __str__(self) -> str:
        place = self.file + (f" row {self.row}" if self.row else "") + (f" {self.field}" if self.field else "")
        return f"{place}: {self.message} {self.remedy}"
