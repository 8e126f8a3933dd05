"""What a database complains of, in our words: what happened, where, what to do.

SQLite names its errors (``SQLITE_FULL``), PostgreSQL numbers them (SQLSTATE, appendix A of its manual). A complaint that is not in the
lists below is a bug of ours and passes as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnectionFree

from luthier.core.errors import StorageError


class Complaint(NamedTuple):
    """One kind of trouble: the code of docs/errors.md, what happened, what to do, and by which names both databases know it."""

    code: str
    what: str
    remedy: str
    names: tuple[str, ...]


COMPLAINTS = (
    Complaint(
        "database_busy",
        "Others held the database for too long",
        "Try again; if it stays so, see which process writes all the time, or move to PostgreSQL.",
        ("SQLITE_BUSY", "SQLITE_LOCKED", "40001", "40P01", "55P03", "53300", "57014", "pool"),
    ),
    Complaint(
        "database_full",
        "The disk of the database is full; nothing of this change was kept",
        "Free some space and try again; what was saved before is intact.",
        ("SQLITE_FULL", "53100", "53200"),
    ),
    Complaint(
        "database_readonly",
        "The database cannot be written",
        "See to the rights of the file and of its folder, or to the server's role.",
        ("SQLITE_READONLY", "25006", "42501"),
    ),
    Complaint(
        "database_tables",
        "The tables are not there, or not those of this version",
        "`luthier database upgrade` makes them.",
        ("no such table", "no such column", "42P01", "42703"),
    ),
    Complaint(
        "database_damaged",
        "The file is damaged or is no database",
        "Restore a backup (`luthier restore`), or take another file.",
        ("SQLITE_CORRUPT", "SQLITE_NOTADB", "XX001", "XX002"),
    ),
    Complaint(
        "database_unreachable",
        "The database cannot be reached",
        "See that it is running, and that address, name and password are right (--database or LUTHIER_DATABASE).",
        ("SQLITE_CANTOPEN", "SQLITE_PERM", "08", "28", "3D000", "57P", "lost"),
    ),
    Complaint(
        "database_disk",
        "The disk of the database answers with errors",
        "See whether it is full, quota-limited or failing; what was saved before is intact.",
        ("SQLITE_IOERR", "58030", "58P01"),
    ),
)


@contextmanager
def telling(place: str) -> Iterator[None]:
    """Turn what the database complains of into a StorageError.

    Args:
        place: the database, without its password.
    """
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, NoConnectionFree) as error:
        if (complaint := _complaint(name := _name(error))) is None:
            raise
        detail = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise StorageError(f"{complaint.what} ({name}: {detail}).", where=place, remedy=complaint.remedy, code=complaint.code) from error


def _name(error: Exception) -> str:
    """By what name the database knows its complaint: SQLite's word, PostgreSQL's SQLSTATE, or a word of ours."""
    if isinstance(error, NoConnectionFree):
        return "pool"
    original = getattr(error, "orig", None)
    name = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
    if name == "SQLITE_ERROR":  # the drawer for everything else; only its words tell
        return next((words for words in ("no such table", "no such column") if words in str(original)), name)
    if name is None and type(original).__name__ == "OperationalError":
        return "lost"  # psycopg: no connection, so no SQLSTATE
    return name or ""


def _complaint(name: str) -> Complaint | None:
    """The nearest: a whole name before the beginning of one (``SQLITE_IOERR_WRITE``, class ``08`` of SQLSTATE)."""
    fitting = [(len(known), complaint) for complaint in COMPLAINTS for known in complaint.names if name.startswith(known)]
    return max(fitting, key=lambda found: found[0])[1] if fitting else None
