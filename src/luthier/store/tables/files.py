"""Files of users, and uploads in parts. The bytes lie in the blob store under their digest."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from luthier.store.tables._base import Facts, Numbered, Table


class File(Numbered, Table):
    """``file-...``. A deleted file has no row; a blob nobody names any more is deleted with it.

    Attributes:
        digest: SHA-256 of the bytes, hexadecimal: where the blob is. status: ``uploaded``, ``processed`` or ``error``.
        report: what the check of the data found, once it was looked at.
    """

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_project_n", "project_id", "n"),)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    filename: Mapped[str]
    purpose: Mapped[str]
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


class BlobClaim(Numbered, Table):
    """``claim_...``: somebody is about to name a blob, or has just stopped naming it.

    While `until` lies ahead nobody removes the blob; after it, the blob goes unless a file or a part names it. So every blob has a row
    somewhere at every moment, and what a killed process leaves is found again. The digest ``*`` claims all blobs: a backup is running.
    """

    __tablename__ = "blob_claims"
    digest: Mapped[str] = mapped_column(index=True)
    until: Mapped[float] = mapped_column(index=True)
