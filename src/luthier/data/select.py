"""The rows of a checked file that are wanted: of the training or of the held-out side, pairs as the objective reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.core.example import Example
from luthier.data.pairs import chosen_only
from luthier.data.read import Tally, read
from luthier.data.recognise import Recognition, recognise


@dataclass(frozen=True)
class Selected:
    """Rows of a file, each time they are asked for anew.

    Attributes:
        path, group: the file, and the field that goes into `Example.group`. recognition: what the file is.
        rows: numbers of the wanted rows, or None for all. pairs: pairs stay pairs; else their chosen answer is read, as `learn` says.
    """

    path: Path
    recognition: Recognition
    group: str = ""
    rows: frozenset[int] | None = None
    pairs: bool = True
    learn: str = "answers"

    @classmethod
    def of(cls, path: Path, *, format: str = "auto", **said: Any) -> Selected:
        """Rows of `path`; see the attributes. Raises as `recognise` does."""
        return cls(path, recognise(path, format=format), **said)

    def __iter__(self) -> Iterator[Example]:
        """The rows in the order of the file.

        Raises:
            DataError: a row is wrong. The file was checked, so it changed since. (Warnings were told by the check.)
        """
        tally = Tally()  # warnings of the file as a whole were told as well
        for found in read(self.path, group=self.group, recognition=self.recognition, tally=tally, wanted=self.rows):
            if not isinstance(found, Example):
                if found.severity == "error":
                    raise DataError(found.message, where=f"{found.file} row {found.row}", remedy=found.remedy, code=found.code)
            else:
                yield found if self.pairs else chosen_only(found, learn=self.learn)
