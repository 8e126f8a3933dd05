"""Parameters that lists have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query

After = Annotated[str, Query(max_length=256, description="The last id of the page before.")]
Order = Annotated[Literal["asc", "desc"], Query(description="By when they were made.")]
Limit = Annotated[int, Query(ge=1, le=100, description="Most items of the page.")]
Purpose = Annotated[str, Query(max_length=64, description="Only files of this purpose.")]
