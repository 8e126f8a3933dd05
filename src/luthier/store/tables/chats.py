"""Completions that the client asked to store."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from luthier.store.tables._base import Facts, Numbered, Table


class StoredCompletion(Numbered, Table):
    """``chatcmpl-...``: request and answer as the wire showed them."""

    __tablename__ = "stored_completions"
    __table_args__ = (Index("ix_stored_completions_project_n", "project_id", "n"),)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    model: Mapped[str] = mapped_column(index=True)
    facts: Mapped[Facts] = mapped_column("metadata", default=dict)
    request: Mapped[Facts]
    answer: Mapped[Facts]
