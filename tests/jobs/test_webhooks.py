"""Webhooks: signed as the real client wants it, tried again, and never sent into our own network."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError, OpenAI
from sqlalchemy import select

from luthier.core.errors import SpecError
from luthier.jobs import control, webhooks
from luthier.store import ids
from luthier.store.tables.operation import Delivery, Webhook

from .conftest import Service


class Ear(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted, and answers with the next of `answers`."""

    heard: list[tuple[str, dict[str, str], bytes]]
    answers: list[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.heard.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.answers.pop(0) if self.answers else 200)
        self.send_header("location", "http://127.0.0.1:1/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def ear() -> Iterator[Any]:
    """Somebody on loopback who listens."""
    handler = type("OneEar", (Ear,), {"heard": [], "answers": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        handler.url = f"http://localhost:{server.server_port}/hook?x=1"  # type: ignore[attr-defined]
        yield handler
        server.shutdown()


def subscribe(service: Service, url: str, *events: str) -> str:
    secret = webhooks.new_secret()
    with service.database.write() as session:
        facts = {"url": url, "secret": secret, "events": list(events), "name": "x", "updated_at": time.time()}
        session.add(Webhook(id=ids.new("whe_"), project_id=service.who.project_id, **facts))
    return secret


def deliveries(service: Service) -> list[Delivery]:
    with service.database.read() as session:
        return list(session.scalars(select(Delivery).order_by(Delivery.n)))


def due(service: Service) -> None:
    """Let time pass until the next try."""
    with service.database.write() as session:
        for delivery in session.scalars(select(Delivery).where(Delivery.due_at.is_not(None))):
            delivery.due_at = time.time() - 1


def test_the_real_client_verifies_what_is_sent_and_refuses_what_was_changed(service: Service, job: Any, ear: Any) -> None:
    secret = subscribe(service, ear.url, "fine_tuning.job.cancelled", "fine_tuning.job.failed")
    subscribe(service, ear.url, "batch.completed")
    control.cancel(service.database, job.id, service.who)
    assert webhooks.deliver(service.database, private=True) == 1
    path, headers, body = ear.heard[0]
    client = OpenAI(api_key="none", base_url="http://127.0.0.1:1", webhook_secret=secret)
    event = client.webhooks.unwrap(body, headers)
    assert (event.type, event.data.id, event.object, path) == ("fine_tuning.job.cancelled", job.id, "event", "/hook?x=1")
    assert headers["webhook-id"] == event.id == deliveries(service)[0].id
    assert headers["host"] == ear.url.removeprefix("http://").partition("/")[0], "the name that was asked for"
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body.replace(b"cancelled", b"succeeded"), headers)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body, headers, secret=webhooks.new_secret())
    assert webhooks.deliver(service.database, private=True) == 0, "once"


def test_what_is_not_taken_is_sent_again_later_and_given_up_in_the_end(service: Service, job: Any, ear: Any) -> None:
    subscribe(service, ear.url, "fine_tuning.job.cancelled")
    ear.answers += [500, 302]
    control.cancel(service.database, job.id, service.who)
    assert webhooks.deliver(service.database, private=True) == 1
    assert webhooks.deliver(service.database, private=True) == 0, "not yet"
    waits = []
    for _ in range(2):
        waits.append(deliveries(service)[0].due_at - time.time())
        due(service)
        webhooks.deliver(service.database, private=True)
    done = deliveries(service)[0]
    assert waits == [pytest.approx(webhooks.WAITS[0], abs=3), pytest.approx(webhooks.WAITS[1], abs=3)]
    assert (len(ear.heard), done.attempts, done.due_at, done.error) == (3, 3, None, None), "a redirect is not followed, and no success"
    assert done.delivered_at is not None
    assert len({headers["webhook-id"] for _, headers, _ in ear.heard}) == 1
    ear.answers += [503]
    with service.database.write() as session:
        row = session.scalars(select(Delivery)).one()
        row.attempts, row.due_at, row.delivered_at = len(webhooks.WAITS), time.time(), None
    webhooks.deliver(service.database, private=True)
    lost = deliveries(service)[0]
    assert (lost.due_at, lost.delivered_at, lost.error) == (None, None, "It answered with status 503.")


def test_nothing_is_sent_into_our_own_network(service: Service, job: Any, ear: Any) -> None:
    subscribe(service, ear.url.replace("http://", "https://"), "fine_tuning.job.cancelled")
    control.cancel(service.database, job.id, service.who)
    webhooks.deliver(service.database)
    assert ear.heard == []
    assert (deliveries(service)[0].delivered_at, deliveries(service)[0].attempts) == (None, 1)


@pytest.mark.parametrize(
    "url",
    [
        "http://1.1.1.1/",
        "ftp://1.1.1.1/",
        "https://user:secret@1.1.1.1/",
        "https://127.0.0.1/",
        "https://localhost/",
        "https://0.0.0.0/",
        "https://10.0.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fe80::1]/",
        "https://224.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://1.1.1.1:99999/",
        "https:///path",
        "notaurl",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(SpecError) as refused:
        webhooks.target(url)
    assert (refused.value.code, refused.value.where) == ("webhook_url", "url")


def test_a_public_address_is_taken_as_it_was_checked() -> None:
    where = webhooks.target("https://1.1.1.1:8443/hook?a=b#c")
    assert (where.url, where.host, where.address) == ("https://1.1.1.1:8443/hook?a=b", "1.1.1.1:8443", "1.1.1.1")
    assert webhooks.is_public(ip_address("2606:4700::1111"))


def test_a_name_is_resolved_once_and_every_address_of_it_must_be_public(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [["1.1.1.1", "127.0.0.1"], ["1.1.1.1"], ["127.0.0.1"]]
    monkeypatch.setattr(webhooks.socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", (one, 443)) for one in answers.pop(0)])
    with pytest.raises(SpecError, match="not public"):
        webhooks.target("https://two.example/")
    assert webhooks.target("https://turns.example/x").url == "https://1.1.1.1/x", "and not what the name says the next time"


def test_an_address_that_is_not_there_or_says_nothing_is_an_ordinary_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = webhooks.an_event("batch.completed", "batch_1")
    with pytest.raises(OSError, match="ConnectError"):
        webhooks.send("http://127.0.0.1:9/", webhooks.new_secret(), payload, private=True)
    assert json.loads(webhooks.signed(webhooks.new_secret(), payload)[0]) == payload
