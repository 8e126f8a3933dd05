"""What all tables have in common.

Every row has a number `n` that grows with each insert: the order of lists, and the cursor behind the wire's "after ID".
Times are seconds since 1970 in UTC, as fractions; the wire cuts them to whole seconds.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Double, Integer, MetaData, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

Count = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the key is a plain INTEGER."""

Json = JSON(none_as_null=True)
"""Nothing is NULL, never the JSON word null: conditions on one would not find the other."""

Facts = dict[str, Any]
"""A column of JSON."""


class Table(DeclarativeBase):
    """The base of every table; constraints have names, so that a migration can find them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {Facts: Json, list[str]: Json, list[Facts]: Json, int: BigInteger, float: Double, str: String}


class Numbered:
    """A row with its number, its id, and when it was made."""

    n: Mapped[int] = mapped_column(Count, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float] = mapped_column(default=time.time)
