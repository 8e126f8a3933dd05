"""One page of a list, found by the id of the last item the asker has seen: the way of every list on the wire.

The order is that of the rows' numbers, so a page costs as much at the end of a long list as at its beginning. Tables that are listed
within a project or a job have an index over (that, n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from luthier.core.errors import NotFound, SpecError
from luthier.store.tables._base import Numbered

Order = Literal["asc", "desc"]
Row = TypeVar("Row", bound=Numbered)

MOST = 10_000
"""Rows of one page: the largest limit of the wire."""


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Some rows in order, and whether more follow."""

    rows: list[Row]
    has_more: bool


def page(session: Session, table: type[Row], *where: Any, after: str = "", limit: int = 20, order: Order = "desc") -> Page[Row]:
    """The rows of `table` that fulfil `where`, after the one with the id `after`.

    Args:
        where: conditions of SQLAlchemy, the scope first: ``Job.project_id == project``.
        after: the last id of the page before; empty for the first page.
        limit: rows of a page, from 1 to `MOST`. order: by when they were made, oldest first (``asc``) or newest first.

    Raises:
        NotFound: no row within `where` has the id `after`.
        SpecError: `limit` is out of its range.
    """
    if not 1 <= limit <= MOST:
        raise SpecError(
            f"A page has 1 to {MOST:,} items, not {limit}.", where="limit", remedy="Leave it out for the default.", code="bad_value"
        )
    query = select(table).where(*where)
    if after:
        query = _beyond(session, query, table, after, order)
    ordered = query.order_by(table.n if order == "asc" else table.n.desc()).limit(limit + 1)
    rows = list(session.scalars(ordered))
    return Page(rows[:limit], len(rows) > limit)


def _beyond(session: Session, query: Select[Row], table: type[Row], after: str, order: Order) -> Select[Row]:
    number = session.scalar(query.with_only_columns(table.n).where(table.id == after))
    if number is None:
        raise NotFound(f"No item of this list has the id {after!r}.", where="after", remedy="Begin again without it.", code="bad_cursor")
    return query.where(table.n > number if order == "asc" else table.n < number)
