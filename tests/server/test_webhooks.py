"""Webhook endpoints through the real client, with an address that listens on loopback and verifies what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import openai
import pytest

from server.live import Live, listening


class Ear:
    """An address that keeps what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[dict[str, str], bytes]] = []
        ear = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                ear.heard.append((dict(self.headers), self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(202)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def ear() -> Iterator[Ear]:
    made = Ear()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A service whose webhooks may go to this machine."""
    yield from listening(tmp_path_factory.mktemp("private"), private_webhooks=True)


def test_an_endpoint_lives_and_dies(private: Live, ear: Ear) -> None:
    client = private.client()
    hooks = client.webhooks
    made = hooks.create(name="desk", url=ear.url, event_types=["fine_tuning.job.succeeded", "batch.completed"])
    assert made.object == "webhook_endpoint" and made.signing_secret.startswith("whsec_")
    shown = hooks.retrieve(made.id)
    assert shown.url == ear.url and not hasattr(shown, "signing_secret") and shown.signing_secret_hint
    changed = hooks.update(made.id, name="other", event_types=["fine_tuning.job.failed"])
    assert (changed.name, changed.event_types, changed.url) == ("other", ["fine_tuning.job.failed"], ear.url)
    secret = hooks.rotate_secret(made.id).signing_secret
    assert secret != made.signing_secret
    tested = hooks.test(made.id, event_type="fine_tuning.job.failed")
    assert (tested.status_code, tested.success) == (202, True)
    headers, body = ear.heard[-1]
    assert hooks.unwrap(body, headers, secret=secret).type == "fine_tuning.job.failed"
    with pytest.raises(openai.InvalidWebhookSignatureError):
        hooks.unwrap(body, headers, secret=made.signing_secret)
    assert made.id in [one.id for one in hooks.list()]
    assert hooks.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        hooks.retrieve(made.id)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/x", "https://127.0.0.1/x", "https://[::1]/", "ftp://a/b", "https://", "file:///etc/passwd"]
)
def test_addresses_of_the_own_network_are_refused(client: openai.OpenAI, url: str) -> None:
    with pytest.raises(openai.BadRequestError):
        client.webhooks.create(name="x", url=url, event_types=["batch.failed"])


def test_events_that_never_happen_are_refused(client: openai.OpenAI) -> None:
    kinds: Any = ["safety.alert.created"]
    with pytest.raises(openai.BadRequestError):
        client.webhooks.create(name="x", url="https://example.com", event_types=kinds)
