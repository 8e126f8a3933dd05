"""Files and uploads."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from luthier.server.wire._base import Answer, Asked, Id, Luthier, maybe

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
AnyPurpose = Literal[Purpose, "assistants_output", "batch_output", "fine-tune-results"]

Seconds = Annotated[int, Field(strict=True, ge=3600, le=2_592_000)]


class ExpiresAfter(Asked):
    """When a file goes by itself: seconds after it was made, an hour to thirty days."""

    anchor: Literal["created_at"]
    seconds: Seconds


class File(Answer):
    """``file-...``"""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = maybe()
    filename: str
    purpose: AnyPurpose
    status: Literal["uploaded", "processed", "error"]
    status_details: str | None = maybe()
    luthier: Luthier | None = maybe()


class FileDeleted(Answer):
    """The file is gone, and its bytes with it."""

    id: str
    object: Literal["file"] = "file"
    deleted: bool


class FileReport(Answer):
    """What the check of the data found: every problem with row, field, reason and remedy. Null until the file was looked at."""

    object: Literal["file.report"] = "file.report"
    file_id: str
    status: Literal["uploaded", "processed", "error"]
    ok: bool | None
    report: dict[str, Any] | None


class CreateUpload(Asked):
    """A file that will come in parts."""

    filename: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    purpose: Purpose
    bytes: Annotated[int, Field(strict=True, ge=1)]
    mime_type: Annotated[str, StringConstraints(max_length=255)]
    expires_after: ExpiresAfter | None = None


class CompleteUpload(Asked):
    """The order of the parts, and the MD5 of the whole as the client knows it."""

    part_ids: Annotated[list[Id], Field(max_length=10_000)]
    md5: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{32}$")] | None = None


class Upload(Answer):
    """``upload_...``"""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: File | None
    luthier: Luthier | None = maybe()


class UploadPart(Answer):
    """``part_...``"""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str
