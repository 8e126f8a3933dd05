"""Where a reader puts what is wrong with a row."""

from __future__ import annotations

from typing import Any, Literal

from luthier.core.problem import Problem


class Findings:
    """Collects the problems of one row at a time. One object serves a whole file: it is in the hot path."""

    __slots__ = ("errors", "file", "problems", "row")

    def __init__(self, file: str) -> None:
        self.file, self.row, self.errors = file, 0, 0
        self.problems: list[Problem] = []

    def begin(self, row: int) -> None:
        """Forget the last row."""
        self.row, self.errors = row, 0
        self.problems = []

    def add(self, field: str, code: str, message: str, remedy: str, severity: Literal["error", "warning"] = "error") -> None:
        """One more finding about the present row."""
        self.errors += severity == "error"
        self.problems.append(Problem(self.file, self.row, field, code, message, remedy, severity))

    def text(self, value: Any, field: str, *, optional: bool = False) -> str:
        """`value` as a string; a finding when it is none (numbers are taken as their digits)."""
        if type(value) is str:
            return value
        if value is None and optional:
            return ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        self.wrong_type(field, "text", value)
        return ""

    def wrong_type(self, field: str, wanted: str, value: Any) -> None:
        """The finding that `field` is not `wanted`."""
        got = {dict: "an object", list: "a list", bool: "true or false", type(None): "missing or null", str: "text"}.get(
            type(value), "a number"
        )
        self.add(field, "wrong_type", f"Here should be {wanted}, but it is {got}.", "Correct the field.")
