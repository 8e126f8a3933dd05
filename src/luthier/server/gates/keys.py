"""Who asks, and whether they may ask that much: the key behind ``Authorization``, its limits, and the headers that tell of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from luthier.core.errors import LuthierError, TooMuch
from luthier.security.actor import Actor, actor_of, note_use
from luthier.server.errors import from_luthier
from luthier.server.gates._send import adding, refuse

if TYPE_CHECKING:
    from luthier.server.service import Service

log = logging.getLogger("luthier.server")

OPEN = frozenset({"/healthz", "/readyz", "/openapi.json"})
"""What tells nothing about anybody."""


class Keys:
    """Puts the actor on ``scope["state"]["actor"]``; without one, nothing behind this gate is reached."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        try:
            actor = await to_thread.run_sync(self._actor, Headers(scope=scope))
        except LuthierError as error:
            await refuse(from_luthier(error), scope, receive, send, close=True)
            return
        scope["state"] |= {"actor": actor, "key_id": actor.name}
        try:
            grant = self.service.limiter.admit(actor.name, actor.limits)
        except TooMuch as error:
            await refuse(from_luthier(error), scope, receive, send, close=True)
            return
        with grant:
            scope["state"]["grant"] = grant
            await self.app(scope, receive, adding(send, grant.headers | {"openai-organization": actor.organisation}))

    def _actor(self, headers: Headers) -> Actor:
        kind, _, secret = headers.get("authorization", "").partition(" ")
        with self.service.database.read() as session:
            actor = actor_of(
                session,
                secret.strip() if kind.lower() == "bearer" else "",
                organisation=headers.get("openai-organization", ""),
                project=headers.get("openai-project", ""),
                defaults=self.service.settings.limits(),
            )
        note_use(self.service.database, actor)
        return actor
