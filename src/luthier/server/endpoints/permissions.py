"""``/v1/fine_tuning/checkpoints/MODEL/permissions``: other projects of the organisation that may use a checkpoint."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.errors import not_there
from luthier.server.service import Ours
from luthier.server.shown.jobs import shown_permission
from luthier.server.wire import jobs as wire
from luthier.server.wire._base import Listed, listed, reply
from luthier.server.wire._query import After, Limit
from luthier.server.wire.error import errors
from luthier.store import ids
from luthier.store.audit import record
from luthier.store.pages import page
from luthier.store.tables.jobs import Checkpoint, CheckpointPermission, Job
from luthier.store.tables.tenants import Project

router = APIRouter(prefix="/v1/fine_tuning/checkpoints", tags=["Fine-tuning"], route_class=Route)

Order = Annotated[Literal["ascending", "descending"], Query(description="By when they were given.")]


@router.post("/{model:path}/permissions", response_model=Listed[wire.Permission], responses=errors(404))
def create(model: str, body: wire.CreatePermissions, caller: Annotated[Caller, allowed("permission.create")], ours: Ours) -> Response:
    """Let projects of the same organisation use a checkpoint. One that may already is not told twice."""
    with ours.database.write() as session:
        _checkpoint(session, caller, model)
        made = [_permission(session, caller, model, project_id) for project_id in dict.fromkeys(body.project_ids)]
    return reply(listed([shown_permission(one) for one in made], False))


def _permission(session: Session, caller: Caller, model: str, project_id: str) -> CheckpointPermission:
    mine = (Project.id == project_id, Project.organisation_id == caller.actor.organisation_id)
    if session.scalar(select(Project.id).where(*mine)) is None:
        raise not_there("project", project_id, param="project_ids")
    known = select(CheckpointPermission).where(CheckpointPermission.model_id == model, CheckpointPermission.project_id == project_id)
    found = session.scalar(known)
    if found is None:
        found = CheckpointPermission(id=ids.new("cp_"), created_at=time.time(), model_id=model, project_id=project_id)
        session.add(found)
        session.flush()
        record(session, caller.actor, "permission.create", found.id, request_id=caller.request_id, model=model, project=project_id)
    return found


@router.get("/{model:path}/permissions", response_model=Listed[wire.Permission], responses=errors(404))
def many(
    model: str,
    caller: Annotated[Caller, allowed("permission.read")],
    ours: Ours,
    project_id: Annotated[str, Query(max_length=256)] = "",
    after: After = "",
    limit: Limit = 10,
    order: Order = "descending",
) -> Response:
    """Who may use a checkpoint."""
    where: list[Any] = [CheckpointPermission.model_id == model, *([CheckpointPermission.project_id == project_id] if project_id else [])]
    with ours.database.read() as session:
        _checkpoint(session, caller, model)
        direction: Literal["asc", "desc"] = "asc" if order == "ascending" else "desc"
        found = page(session, CheckpointPermission, *where, after=after, limit=limit, order=direction)
    return reply(listed([shown_permission(one) for one in found.rows], found.has_more))


@router.delete("/{model:path}/permissions/{permission_id}", response_model=wire.PermissionDeleted, responses=errors(404))
def delete(model: str, permission_id: str, caller: Annotated[Caller, allowed("permission.delete")], ours: Ours) -> Response:
    """Take a permission back."""
    with ours.database.write() as session:
        _checkpoint(session, caller, model)
        known = select(CheckpointPermission).where(CheckpointPermission.model_id == model, CheckpointPermission.id == permission_id)
        found = session.scalar(known)
        if found is None:
            raise not_there("permission", permission_id, param="permission_id")
        session.delete(found)
        record(session, caller.actor, "permission.delete", permission_id, request_id=caller.request_id, model=model)
    return reply(wire.PermissionDeleted(id=permission_id, deleted=True))


def _checkpoint(session: Session, caller: Caller, model: str) -> None:
    """See that the checkpoint is this project's own."""
    own = select(Checkpoint.id).join(Job, Job.id == Checkpoint.job_id).where(Checkpoint.model_id == model)
    if session.scalar(own.where(Job.project_id == caller.project_id)) is None:
        raise not_there("checkpoint", model, param="fine_tuned_model_checkpoint")
