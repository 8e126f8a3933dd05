"""The numbers of a run's steps in the wire's words, read from ``steps.jsonl``: the one record of what was trained."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
"""Of the result file, as the service this one stands in for has them."""


class Steps:
    """Reads what a run adds to its ``steps.jsonl``.

    A step is told when it is complete: with its look at the held-out rows, if it had one, so once something else follows or at the end.
    """

    def __init__(self, file: Path) -> None:
        self.file, self.offset = file, 0
        self.open: dict[str, Any] = {}

    def fresh(self, *, last: bool = False) -> Iterator[dict[str, Any]]:
        """Steps complete since the last call: ``step``, ``total_steps``, ``train_loss``, ``valid_loss`` where there is one, ``tokens``.

        Args:
            last: nothing follows any more.
        """
        for record in self._records():
            if record["kind"] == "stepped":
                if self.open:
                    yield self.open
                self.open = _told(record)
            elif self.open.get("step") == record["step"]:
                self.open |= {"valid_loss": record["loss"], "full_valid_loss": record["loss"]}
        if last and self.open:
            yield self.open
            self.open = {}

    def _records(self) -> Iterator[dict[str, Any]]:
        if not self.file.is_file():
            return
        with open(self.file, "rb") as source:
            source.seek(self.offset)
            for line in source:
                if not line.endswith(b"\n"):
                    return  # it is being written
                self.offset += len(line)
                yield json.loads(line)


def every(file: Path) -> list[dict[str, Any]]:
    """All steps of a run."""
    return list(Steps(file).fresh(last=True))


def result_file(steps: list[dict[str, Any]]) -> bytes:
    """The result file of a job: CSV in base64, which is how the scripts of the world expect it. What is not measured is empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(steps)
    return base64.b64encode(text.getvalue().encode())


def _told(record: dict[str, Any]) -> dict[str, Any]:
    return {"step": record["step"], "total_steps": record["of"], "train_loss": record["loss"], "tokens": record["tokens"]}
