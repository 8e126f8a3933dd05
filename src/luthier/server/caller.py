"""Who called, for endpoints: the actor the gate has found, allowed to do what the endpoint does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session

from luthier.security.actor import Actor
from luthier.security.authorize import require
from luthier.security.limits import Grant
from luthier.security.quotas import room_for_bytes

KEY = HTTPBearer(auto_error=False, description="A key of this service: lk-...")


@dataclass(frozen=True, slots=True)
class Caller:
    """actor: whose key. grant: what the limits let in. request_id: for the audit."""

    actor: Actor
    grant: Grant
    request_id: str

    @property
    def project_id(self) -> str:
        """The project the key opens."""
        return self.actor.project_id

    def needs_room(self, session: Session, num_bytes: int) -> None:
        """See that the project may keep so many bytes more.

        Raises:
            TooMuch: it may not.
        """
        room_for_bytes(session, self.project_id, num_bytes, most=self.actor.limits.storage_bytes)


def allowed(action: str) -> Any:
    """The caller, as a dependency: ``Annotated[Caller, allowed("file.read")]``. Others are told why not (403)."""

    def caller(request: Request, _: Annotated[object, Depends(KEY)]) -> Caller:
        require(request.state.actor, action)
        return Caller(request.state.actor, request.state.grant, request.state.request_id)

    return Depends(caller)
