"""Files of users, and uploads in parts. The bytes lie in the blob store under their digest."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from luthier.store.tables._base import Facts, Numbered, Table


class File(Numbered, Table):
    """``file-...``. A deleted file has no row; a blob nobody names any more is deleted with it.

    Attributes:
        digest: SHA-256 of the bytes, hexadecimal: where the blob is. status: ``uploaded``, ``processed`` or ``error``.
        report: what the check of the data found, once it was looked at.
    """

    __tablename__ = "files"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    filename: Mapped[str]
    purpose: Mapped[str] = mapped_column(index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(index=True)
    status: Mapped[str] = mapped_column(default="uploaded")
    status_details: Mapped[str | None]
    expires_at: Mapped[float | None] = mapped_column(index=True)
    report: Mapped[Facts | None]


class Upload(Numbered, Table):
    """``upload_...``: ``pending``, ``completed``, ``cancelled``, ``expired``. `file_expires` is the ``expires_after`` of the file to be."""

    __tablename__ = "uploads"
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), index=True)
    filename: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[str] = mapped_column(default="pending")
    expires_at: Mapped[float] = mapped_column(index=True)
    file_expires: Mapped[Facts | None]
    file_id: Mapped[str | None]


class UploadPart(Numbered, Table):
    """``part_...``: its bytes wait as a blob until the upload is completed, cancelled or expired."""

    __tablename__ = "upload_parts"
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"), index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(index=True)
