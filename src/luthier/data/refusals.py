"""Everything wrong with the rows, gathered while they are rendered and told at once."""

from __future__ import annotations

from luthier.core.errors import DataError
from luthier.core.example import Source

LISTED = 20
"""Rows named one by one in an error; the others are counted."""


class Refusals:
    """Rows that do not pass. `count` is exact; only the first ones are kept."""

    def __init__(self) -> None:
        self.first: list[DataError] = []
        self.count = 0

    def add(self, error: DataError) -> None:
        """Remember one more."""
        self.count += 1
        if len(self.first) < LISTED:
            self.first.append(error)

    def absorb(self, count: int, first: list[dict[str, str]]) -> None:
        """Those of a later part of the data, and what its first ones say."""
        self.count += count
        for told in first[: LISTED - len(self.first)]:
            self.first.append(DataError(told["message"], where=told["where"], remedy=told["remedy"], code=told["code"]))

    def raise_if_any(self) -> None:
        """Tell them all.

        Raises:
            DataError: there are any; its code is theirs where they share one.
        """
        if self.count == 1:
            raise self.first[0]
        if self.count:
            more = f"\n... and {self.count - len(self.first):,} more" if self.count > len(self.first) else ""
            lines = "\n".join(f"{error.where}: {error.what}" for error in self.first)
            remedies = " ".join(dict.fromkeys(error.remedy for error in self.first))
            codes = {error.code for error in self.first}
            raise DataError(
                f"{self.count:,} rows do not pass:\n{lines}{more}\n", remedy=remedies, code=codes.pop() if len(codes) == 1 else ""
            )


def blind() -> DataError:
    """The error of a row with a picture or a sound, for a model that reads words."""
    return DataError(
        "The row has a picture or a sound, which this model does not take in.",
        remedy="Leave it out, or choose a model that does (docs/families.md).",
        code="unsupported_media",
    )


def teaches_nothing(source: Source) -> DataError:
    """The error of a row none of whose tokens is learned."""
    return DataError(
        "The row teaches nothing: it has no answer of positive weight.",
        where=str(source),
        remedy="Give it an answer, raise a weight above 0, or leave the row out.",
        code="nothing_learned",
    )
