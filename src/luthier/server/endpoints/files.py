"""``/v1/files``: send, list, look at, fetch, delete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.errors import invalid
from luthier.server.intake import keep
from luthier.server.multipart import Part, parts
from luthier.server.service import Ours
from luthier.server.shown.files import shown
from luthier.server.wire import files as wire
from luthier.server.wire._base import Listed, listed, reply
from luthier.server.wire._query import After, Order, Purpose
from luthier.server.wire.error import errors
from luthier.store import files
from luthier.store.blobs import Stored

router = APIRouter(prefix="/v1/files", tags=["Files"], route_class=Route)

Limit = Annotated[int, Query(ge=1, le=10_000)]

FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(files.PURPOSES)},
                        "expires_after": {"$ref": "#/components/schemas/ExpiresAfter"},
                    },
                }
            }
        },
    }
}


@router.post("", response_model=wire.File, openapi_extra=FORM)
async def create(request: Request, caller: Annotated[Caller, allowed("file.create")], ours: Ours) -> Response:
    """Send a file. It is streamed to where it stays; its data is looked at right afterwards (see its report)."""
    await to_thread.run_sync(_room, ours, caller, int(request.headers.get("content-length", 0)))
    fields: dict[str, str] = {}
    sent: tuple[Part, Stored] | None = None
    try:
        async for part in parts(request):
            if part.name == "file" and part.is_file:
                if sent:
                    raise invalid("The form has two files. Send one at a time.", param="file", code="invalid_value")
                _named(part, fields)
                sent = part, await keep(part, ours.blobs, most=ours.settings.file_bytes)
            else:
                fields[part.name] = await part.text()
        if sent is None:
            raise invalid("Missing required parameter: 'file'.", param="file", code="missing_required_parameter")
        return reply(await to_thread.run_sync(_kept, ours, caller, sent[0].filename, fields, sent[1]))
    except BaseException:
        if sent:
            ours.blobs.drop(sent[1])
        raise


def _room(ours: Ours, caller: Caller, num_bytes: int) -> None:
    """Refuse what cannot fit before it is read."""
    with ours.database.read() as session:
        caller.needs_room(session, num_bytes)


def _named(part: Part, fields: dict[str, str]) -> None:
    """What can be refused before a byte of the file is read."""
    files.check_name(part.filename)
    if "purpose" in fields:
        files.check_purpose(fields["purpose"])


def _kept(ours: Ours, caller: Caller, filename: str, fields: dict[str, str], stored: Stored) -> wire.File:
    if "purpose" not in fields:
        raise invalid("Missing required parameter: 'purpose'.", param="purpose", code="missing_required_parameter")
    files.check_purpose(fields["purpose"])
    with ours.database.write() as session:
        caller.needs_room(session, stored.bytes)
        file = files.add(
            session,
            caller.actor,
            stored,
            filename=filename,
            purpose=fields["purpose"],
            expires_after=_expiry(fields),
            request_id=caller.request_id,
        )
    ours.examine(file)
    ignored = sorted(set(fields) - {"purpose", "expires_after[anchor]", "expires_after[seconds]"})
    return shown(file, ignored=ignored)


def _expiry(fields: dict[str, str]) -> int | None:
    """Seconds of ``expires_after``, of which the form has two fields."""
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise invalid("Invalid 'expires_after.anchor': only created_at is known.", param="expires_after.anchor", code="invalid_value")
    if seconds is None or not (seconds.isascii() and seconds.isdigit() and len(seconds) < 9 and 3600 <= int(seconds) <= 2_592_000):
        message = "Invalid 'expires_after.seconds': a number from 3600 (an hour) to 2592000 (30 days)."
        raise invalid(message, param="expires_after.seconds", code="invalid_value")
    return int(seconds)


@router.get("", response_model=Listed[wire.File])
def many(
    caller: Annotated[Caller, allowed("file.read")],
    ours: Ours,
    purpose: Purpose = "",
    limit: Limit = 10_000,
    order: Order = "desc",
    after: After = "",
) -> Response:
    """The files of the project, newest first."""
    with ours.database.read() as session:
        page = files.listed(session, caller.project_id, after=after, limit=limit, order=order, purpose=purpose)
    return reply(listed([shown(file) for file in page.rows], page.has_more))


@router.get("/{file_id}", response_model=wire.File, responses=errors(404))
def one(file_id: str, caller: Annotated[Caller, allowed("file.read")], ours: Ours) -> Response:
    """One file."""
    with ours.database.read() as session:
        return reply(shown(files.get(session, caller.project_id, file_id)))


@router.delete("/{file_id}", response_model=wire.FileDeleted, responses=errors(404))
def delete(file_id: str, caller: Annotated[Caller, allowed("file.delete")], ours: Ours) -> Response:
    """Delete a file and its bytes. Jobs that read it already are not disturbed."""
    with ours.database.write() as session:
        files.delete(session, caller.actor, ours.blobs, file_id, request_id=caller.request_id)
    return reply(wire.FileDeleted(id=file_id, deleted=True))


CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.get("/{file_id}/content", response_class=StreamingResponse, responses=CONTENT | errors(404))
def content(file_id: str, caller: Annotated[Caller, allowed("file.read")], ours: Ours) -> Response:
    """The bytes of a file."""
    with ours.database.read() as session:
        file = files.get(session, caller.project_id, file_id)
    headers = {
        "content-length": str(file.bytes),
        "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
    }
    return StreamingResponse(_bytes(ours, file.digest), headers=headers, media_type="application/octet-stream")


def _bytes(ours: Ours, digest: str) -> Iterator[bytes]:
    yield from ours.blobs.read(digest)


@router.get("/{file_id}/report", response_model=wire.FileReport, responses=errors(404))
def report(file_id: str, caller: Annotated[Caller, allowed("file.read")], ours: Ours) -> Response:
    """What the check of the data found: every problem with row, field, reason and remedy. Beyond the wire."""
    with ours.database.read() as session:
        file = files.get(session, caller.project_id, file_id)
    found = file.report
    return reply(wire.FileReport(file_id=file.id, status=file.status, ok=found["ok"] if found else None, report=found))
