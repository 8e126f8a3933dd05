"""Every error a user can meet.

An error says three things: what happened (with values), where (file, row, field), and what to do.
Each class also is the standard-library error it replaces, so ordinary Python idioms keep working:

    LuthierError
    |- SpecError      ValueError    the request itself is wrong: unknown key, bad number    exit 2
    |- DataError      ValueError    the examples do not pass                                 exit 1
    |- ModelError     ValueError    a model folder is missing a part or breaks a promise     exit 1
    |- NotFound       LookupError   a run, a model, a file that is not there                 exit 2
    |- ResultError    RuntimeError  training or a certificate went wrong                     exit 1
    |- StorageError   OSError       the disk is full, a folder is read-only                  exit 1
    |- Unauthenticated PermissionError  no key, or one that opens nothing                     exit 2
    |- Forbidden      PermissionError  the key is good, and may not do this                  exit 2
    |- TooMuch        RuntimeError  a limit is reached: requests, tokens, bytes, jobs        exit 1
    |- MissingPart    ImportError   an optional library is not installed                     exit 2
    `- Interrupted    RuntimeError  somebody asked to stop; the state is saved               exit 130

To add one: subclass here, give it a `code` and an `exit_code`, and a test that reads its text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LuthierError(Exception):
    """What went wrong, where, and what to do about it.

    Args:
        what: what happened, with the values that made it happen.
        where: file, row and field, e.g. ``tickets.csv row 1183 field answer``; empty when there is no place.
        remedy: what the reader can do now, as a sentence.
        code: stable name of this kind of error, linked from ``docs/errors.md``.
    """

    code = "error"
    exit_code = 1

    def __init__(self, what: str, *, where: str = "", remedy: str = "", code: str = "") -> None:
        self.what, self.where, self.remedy = what, where, remedy
        if code:
            self.code = code
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}" + (f" {self.remedy}" if self.remedy else "")

    def to_json(self) -> dict[str, str]:
        """The error as plain fields, for ``--json`` and the wire."""
        return {"code": self.code, "message": self.what, "where": self.where, "remedy": self.remedy}


class SpecError(LuthierError, ValueError):
    """The request itself is wrong."""

    code, exit_code = "spec", 2


class DataError(LuthierError, ValueError):
    """The examples do not pass."""

    code = "data"


class ModelError(LuthierError, ValueError):
    """A model folder misses a part or breaks a promise."""

    code = "model"


class NotFound(LuthierError, LookupError):
    """Something named by the user is not there."""

    code, exit_code = "not_found", 2


class ResultError(LuthierError, RuntimeError):
    """Training, a certificate or a reproduction did not come out right."""

    code = "result"


class StorageError(LuthierError, OSError):
    """The disk is full, a folder is read-only, a file vanished."""

    code = "storage"


class Unauthenticated(LuthierError, PermissionError):
    """Who asks is not known: no key, or one that opens nothing (any more)."""

    code, exit_code = "unauthenticated", 2


class Forbidden(LuthierError, PermissionError):
    """Who asks is known, and may not do this; the message has the reason."""

    code, exit_code = "forbidden", 2


class TooMuch(LuthierError, RuntimeError):
    """A limit is reached.

    Attributes:
        retry_after: seconds until it is worth trying again; none where waiting alone does not help.
        headers: what the wire tells about the limit.
    """

    code = "too_much"

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        remedy: str = "",
        code: str = "",
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(what, where=where, remedy=remedy, code=code)
        self.retry_after, self.headers = retry_after, headers or {}


class MissingPart(LuthierError, ImportError):
    """An optional library is not installed; the remedy is the line that installs it."""

    code, exit_code = "missing_part", 2


class Interrupted(LuthierError, RuntimeError):
    """Somebody asked to stop; everything worth keeping is saved, and the remedy is the command that goes on."""

    code, exit_code = "interrupted", 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suggestion for a mistyped `word`, or the whole list when nothing is near."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
