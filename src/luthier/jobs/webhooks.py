"""Telling others what happened: signed, tried again for three days, and never sent into our own network.

An event is written as a `Delivery` in the transaction of what it tells of; a worker sends it. It may arrive twice (a worker died between
sending and writing so): its id is the same then. Signed is ``ID.TIME.BODY`` with HMAC-SHA256 and the endpoint's secret, which the
``openai`` client's ``webhooks.unwrap`` verifies.

A name is resolved once, every address it has must be public, and the connection goes to the address that was checked: a name that
answers differently the second time leads nowhere. Redirects are not followed. The one door to httpx2 for webhooks.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from luthier.core.errors import SpecError
from luthier.store import ids
from luthier.store.database import Database
from luthier.store.tables._base import Facts
from luthier.store.tables.operation import Delivery, Webhook

SECRET = "whsec_"
WAITS = (5.0, 30.0, 120.0, 600.0, 3600.0, 6 * 3600.0, 12 * 3600.0, 24 * 3600.0, 24 * 3600.0)
"""Seconds before the next try; after the last one it is given up. Together about three days: a weekend and a Monday morning."""

PATIENCE = 10.0
"""Seconds to connect, and between two pieces of an answer."""

AT_ONCE = 8
"""Deliveries taken at once: a slow address does not hold up more than these."""

NAT64 = IPv6Network("64:ff9b::/96")


def new_secret() -> str:
    """A secret as the wire writes it."""
    return SECRET + base64.b64encode(secrets.token_bytes(32)).decode()


def announce(session: Session, project_id: str, event: str, subject: str) -> None:
    """Let all addresses of a project that asked for `event` be told, if the transaction of `session` is kept.

    Args:
        event: ``fine_tuning.job.succeeded``, ``batch.completed`` ... subject: id of the job or batch.
    """
    for webhook in session.scalars(select(Webhook).where(Webhook.project_id == project_id)):
        if event in webhook.events:
            payload = an_event(event, subject)
            session.add(Delivery(id=payload["id"], webhook_id=webhook.id, payload=payload, due_at=time.time()))


def an_event(event: str, subject: str) -> Facts:
    """What is sent."""
    return {"id": ids.new("evt_"), "object": "event", "created_at": int(time.time()), "type": event, "data": {"id": subject}}


def signed(secret: str, payload: Facts) -> tuple[bytes, dict[str, str]]:
    """The bytes to send, and the headers that prove who sent them and when."""
    body, now = json.dumps(payload, separators=(",", ":")).encode(), str(int(time.time()))
    key = base64.b64decode(secret.removeprefix(SECRET))
    mark = hmac.new(key, f"{payload['id']}.{now}.".encode() + body, hashlib.sha256).digest()
    return body, {
        "content-type": "application/json",
        "webhook-id": payload["id"],
        "webhook-timestamp": now,
        "webhook-signature": f"v1,{base64.b64encode(mark).decode()}",
    }


@dataclass(frozen=True, slots=True)
class Target:
    """Where a connection goes: the address that was checked, and the name that was asked for."""

    url: str
    host: str
    address: str


def target(url: str, *, private: bool = False) -> Target:
    """Resolve an address people gave, and check it.

    Args:
        private: allow addresses of our own network, and http.

    Raises:
        SpecError: it is no https URL, or leads into our own network (``webhook_url``).
    """
    parts = urlsplit(url)
    if parts.scheme not in (("https", "http") if private else ("https",)) or not parts.hostname or parts.username or parts.password:
        raise _no_target(url, "It must be https://HOST/PATH, without a name or password in it.")
    found = _resolved(url, parts)
    if not private and not all(is_public(address) for address in found):
        raise _no_target(url, "It leads to an address that is not public.")
    address = str(found[0])
    port = f":{parts.port}" if parts.port else ""
    place = f"[{address}]" if ":" in address else address
    return Target(parts._replace(netloc=f"{place}{port}", fragment="").geturl(), f"{parts.hostname}{port}", address)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is of the open network, an IPv4 address wrapped into an IPv6 one included."""
    if isinstance(address, IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in NAT64:
            wrapped = IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
    return address.is_global and not address.is_multicast


def send(url: str, secret: str, payload: Facts, *, private: bool = False) -> int:
    """Send one event, signed; returns the HTTP status.

    Raises:
        SpecError: the address is refused. OSError: it cannot be reached, or does not answer in time.
    """
    import httpx2

    where = target(url, private=private)
    body, headers = signed(secret, payload)
    sni = {"sni_hostname": urlsplit(url).hostname}
    try:
        with (
            httpx2.Client(timeout=PATIENCE, trust_env=False, follow_redirects=False) as client,
            client.stream("POST", where.url, content=body, headers=headers | {"host": where.host}, extensions=sni) as answer,
        ):
            return answer.status_code  # what it says is not read
    except httpx2.HTTPError as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def deliver(database: Database, *, private: bool = False) -> int:
    """Send what is due, a few at a time side by side. Returns how many were tried."""
    taken = _take(database)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for delivery_id, trouble in threads.map(lambda one: (one[0], _tried(*one[1:], private=private)), taken):
            _note(database, delivery_id, trouble)
    return len(taken)


def _tried(url: str, secret: str, payload: Facts, *, private: bool) -> str:
    """Why it could not be delivered; empty when it was."""
    try:
        status = send(url, secret, payload, private=private)
    except (SpecError, OSError) as error:
        return str(error)
    return "" if 200 <= status < 300 else f"It answered with status {status}."


def _take(database: Database) -> list[tuple[str, str, str, Facts]]:
    """Deliveries that are due. Each is at once put off to when it would be tried again, so that nobody else takes it and none is lost."""
    with database.read() as session:  # mostly nothing is due: nothing is locked to find that out
        if session.scalar(select(Delivery.n).where(Delivery.due_at <= time.time()).limit(1)) is None:
            return []
    with database.write() as session:
        query = select(Delivery, Webhook).join(Webhook, Webhook.id == Delivery.webhook_id).where(Delivery.due_at <= time.time())
        found = session.execute(query.order_by(Delivery.due_at).limit(AT_ONCE).with_for_update(skip_locked=True, of=Delivery)).all()
        for delivery, _ in found:
            delivery.due_at = time.time() + WAITS[min(delivery.attempts, len(WAITS) - 1)]
            delivery.attempts += 1
        return [(delivery.id, webhook.url, webhook.secret, delivery.payload) for delivery, webhook in found]


def _note(database: Database, delivery_id: str, trouble: str) -> None:
    with database.write() as session:
        delivery = session.scalar(select(Delivery).where(Delivery.id == delivery_id).with_for_update())
        if delivery is None:
            return
        if not trouble:
            delivery.delivered_at, delivery.due_at, delivery.error = time.time(), None, None
        elif delivery.attempts > len(WAITS):
            delivery.due_at, delivery.error = None, trouble


def _resolved(url: str, parts: SplitResult) -> list[IPv4Address | IPv6Address]:
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        answers = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        raise _no_target(url, f"Its name or port leads nowhere: {error}.") from error
    return [ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers]


def _no_target(url: str, why: str) -> SpecError:
    return SpecError(f"Nothing can be sent to {url[:200]!r}. {why}", where="url", remedy="Give a public https address.", code="webhook_url")
