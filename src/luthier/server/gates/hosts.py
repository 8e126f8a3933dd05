"""Who is spoken to, and from which page: a web page somewhere must not reach a service on its reader's machine.

Its script could call 127.0.0.1, or a name that it made point there (DNS rebinding): the first has a foreign Origin, the second a
foreign Host. Clients that are no browsers send no Origin.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from luthier.server.errors import WireError, printable
from luthier.server.gates._send import adding, refuse

METHODS = "GET, POST, DELETE"


class Hosts:
    """Lets through what is meant for us.

    Args:
        hosts: names without port. origins: ``https://name`` of pages whose scripts may call.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str], origins: frozenset[str]) -> None:
        self.app, self.hosts, self.origins = app, hosts, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")
        error = self._wrong_host(headers) or self._wrong_origin(origin, headers.get("host", ""))
        if error:
            await refuse(error, scope, receive, send, close=True)
        elif origin in self.origins:
            await self._from_page(origin, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _wrong_host(self, headers: Headers) -> WireError | None:
        said = headers.getlist("host")
        if len(said) == 1 and _name(said[0]) in self.hosts:
            return None
        what = f"Host '{printable(said[0])}' is not a name of this service." if said else "The request has no Host."
        return WireError(421, f"{what} Whoever runs it can add names with allowed_hosts.", code="wrong_host")

    def _wrong_origin(self, origin: str, host: str) -> WireError | None:
        """No origin, a page of our own, or one that was named."""
        if not origin or origin in self.origins or urlsplit(origin).netloc == host:
            return None
        message = f"Pages of {printable(origin)} may not call this service. Whoever runs it can add them with allowed_origins."
        return WireError(403, message, code="wrong_origin")

    async def _from_page(self, origin: str, scope: Scope, receive: Receive, send: Send) -> None:
        allow = {"access-control-allow-origin": origin, "vary": "Origin", "access-control-expose-headers": "x-request-id"}
        if scope["method"] == "OPTIONS":
            allow |= {"access-control-allow-methods": METHODS, "access-control-allow-headers": "*, authorization"}
            await send({"type": "http.response.start", "status": 204, "headers": [(k.encode(), v.encode()) for k, v in allow.items()]})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, adding(send, allow))


def _name(host: str) -> str:
    """``Host`` without its port, in lower case, IPv6 without brackets; empty for what is no host at all."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""
