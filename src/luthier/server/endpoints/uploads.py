"""``/v1/uploads``: a large file in parts."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response

from luthier.core.errors import LuthierError
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.errors import invalid
from luthier.server.intake import keep
from luthier.server.multipart import parts
from luthier.server.service import Ours
from luthier.server.shown.files import shown_part, shown_upload
from luthier.server.wire import files as wire
from luthier.server.wire._base import ignored_by, reply
from luthier.server.wire.error import errors
from luthier.store import uploads
from luthier.store.blobs import Stored

router = APIRouter(prefix="/v1/uploads", tags=["Uploads"], route_class=Route)

FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["data"], "properties": {"data": {"type": "string", "format": "binary"}}}
            }
        },
    }
}


@router.post("", response_model=wire.Upload)
def create(body: wire.CreateUpload, caller: Annotated[Caller, allowed("upload.create")], ours: Ours) -> Response:
    """Announce a file that will come in parts, within an hour."""
    if body.bytes > ours.settings.upload_bytes:
        raise invalid(f"Invalid 'bytes': an upload has at most {ours.settings.upload_bytes:,}.", param="bytes", code="invalid_value")
    with ours.database.write() as session:
        caller.needs_room(session, body.bytes)
        upload = uploads.create(
            session,
            caller.actor,
            filename=body.filename,
            purpose=body.purpose,
            mime_type=body.mime_type,
            bytes=body.bytes,
            file_expires=body.expires_after.model_dump() if body.expires_after else None,
            request_id=caller.request_id,
        )
    return reply(shown_upload(upload, None, luthier=ignored_by(body)))


@router.post("/{upload_id}/parts", response_model=wire.UploadPart, openapi_extra=FORM, responses=errors(404))
async def add_part(upload_id: str, request: Request, caller: Annotated[Caller, allowed("upload.part")], ours: Ours) -> Response:
    """Send one part, up to 64 MiB. Parts may be sent in any order, and at the same time."""
    await to_thread.run_sync(_is_open, ours, caller, upload_id)
    stored: Stored | None = None
    try:
        async for part in parts(request):
            if part.name == "data" and stored is None:
                stored = await keep(part, ours.blobs, most=uploads.MOST_PART_BYTES)
        if stored is None:
            raise invalid("Missing required parameter: 'data'.", param="data", code="missing_required_parameter")
        return reply(await to_thread.run_sync(_kept, ours, caller, upload_id, stored))
    except BaseException:
        if stored:
            ours.blobs.drop(stored)
        raise


def _is_open(ours: Ours, caller: Caller, upload_id: str) -> None:
    with ours.database.read() as session:
        uploads.pending(session, caller.project_id, upload_id)


def _kept(ours: Ours, caller: Caller, upload_id: str, stored: Stored) -> wire.UploadPart:
    with ours.database.write() as session:
        return shown_part(uploads.add_part(session, caller.actor, upload_id, stored, request_id=caller.request_id))


@router.post("/{upload_id}/complete", response_model=wire.Upload, responses=errors(404))
def complete(upload_id: str, body: wire.CompleteUpload, caller: Annotated[Caller, allowed("upload.complete")], ours: Ours) -> Response:
    """Put the parts together in the order given."""
    try:
        upload, file = uploads.complete(
            ours.database, ours.blobs, caller.actor, upload_id, body.part_ids, md5=body.md5 or "", request_id=caller.request_id
        )
    except LuthierError as error:
        if error.code == "unknown_part":
            raise invalid(f"{error.what} {error.remedy}", param="part_ids", code=error.code) from error
        raise
    ours.examine(file)
    return reply(shown_upload(upload, file, luthier=ignored_by(body)))


@router.post("/{upload_id}/cancel", response_model=wire.Upload, responses=errors(404))
def cancel(upload_id: str, caller: Annotated[Caller, allowed("upload.cancel")], ours: Ours) -> Response:
    """Give an upload up; its parts are deleted."""
    with ours.database.write() as session:
        upload = uploads.cancel(session, caller.actor, ours.blobs, upload_id, request_id=caller.request_id)
    return reply(shown_upload(upload, None))
