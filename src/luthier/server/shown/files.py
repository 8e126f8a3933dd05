"""Files, uploads and parts."""

from __future__ import annotations

from typing import Any, cast

from luthier.server.wire import files as wire
from luthier.server.wire._base import Luthier
from luthier.store.tables import files as rows


def shown(file: rows.File, *, ignored: list[str] | None = None) -> wire.File:
    """A file."""
    return wire.File(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created_at),
        expires_at=None if file.expires_at is None else int(file.expires_at),
        filename=file.filename,
        purpose=cast(Any, file.purpose),
        status=cast(Any, file.status),
        status_details=file.status_details,
        luthier=Luthier(ignored=ignored) if ignored else None,
    )


def shown_upload(upload: rows.Upload, file: rows.File | None, *, status: str = "", luthier: Luthier | None = None) -> wire.Upload:
    """An upload, with its file once it is complete."""
    return wire.Upload(
        id=upload.id,
        bytes=upload.bytes,
        created_at=int(upload.created_at),
        expires_at=int(upload.expires_at),
        filename=upload.filename,
        purpose=cast(Any, upload.purpose),
        status=cast(Any, status or upload.status),
        file=shown(file) if file else None,
        luthier=luthier,
    )


def shown_part(part: rows.UploadPart) -> wire.UploadPart:
    """A part of an upload."""
    return wire.UploadPart(id=part.id, created_at=int(part.created_at), upload_id=part.upload_id)
