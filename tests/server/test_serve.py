"""The command: it listens, shows a key once, refuses to listen in the open, and ends in order."""

from __future__ import annotations

import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from luthier.core.errors import SpecError
from luthier.server.run import serve
from luthier.server.settings import Settings


@contextmanager
def served(home: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A `luthier serve` of its own, and what it said when it listened."""
    command = [sys.executable, "-m", "luthier", "serve", "--port", "0", "--no-worker", "--json", *options]
    environment = dict(os.environ, LUTHIER_HOME=str(home))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


def test_serve_begins_and_ends(tmp_path: Path) -> None:
    with served(tmp_path) as (process, said):
        health = said["url"].removesuffix("/v1") + "/healthz"
        assert httpx2.get(health).status_code == 200
        assert httpx2.get(f"{said['url']}/files", headers={"authorization": f"Bearer {said['key']}"}).json()["data"] == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_stream_that_outlasts_the_grace_is_told_why_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_GRACE_SECONDS", "2.5")
    numbers = {"type": "array", "items": {"type": "integer", "minimum": 10**6}, "minItems": 100}
    asked: Any = {"response_format": {"type": "json_schema", "json_schema": {"name": "numbers", "schema": numbers}}, "n": 16}
    with served(tmp_path) as (process, said), openai.OpenAI(base_url=said["url"], api_key=said["key"], max_retries=0) as client:
        messages: Any = [{"role": "user", "content": "Count."}]
        chunks = client.chat.completions.create(model="luthier-mini", messages=messages, max_tokens=900, stream=True, **asked)
        next(chunks)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="The service is shutting down"):
            list(chunks)
        assert process.wait(20) == 0


def test_it_speaks_tls(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run(["openssl", *words.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with served(tmp_path, "--certificate", str(certificate), "--certificate-key", str(key)) as (_, said):
        assert said["url"].startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=certificate)
        assert httpx2.get(said["url"].removesuffix("/v1") + "/healthz", verify=trusting).status_code == 200


@pytest.mark.parametrize(("content", "said"), [(None, "certificate cannot be read"), ("no PEM", "cannot be used with this key")])
def test_a_certificate_that_cannot_be_used_is_told_before_anything_else(tmp_path: Path, content: str | None, said: str) -> None:
    for name in ("cert.pem", "key.pem") if content else ():
        (tmp_path / name).write_text(str(content))
    settings = Settings(certificate=str(tmp_path / "cert.pem"), certificate_key=str(tmp_path / "key.pem"), port=0)
    with pytest.raises(SpecError, match=said) as refused:
        serve(settings, listening=lambda url: pytest.fail(f"it listens at {url}"))
    assert refused.value.code == "bad_certificate"


def test_settings_come_from_file_environment_and_flags(tmp_path: Path) -> None:
    file = tmp_path / "luthier.toml"
    file.write_text('port = 1\nhost = "localhost"\nallowed_hosts = ["a", "b"]\n')
    environment = {"LUTHIER_PORT": "2", "LUTHIER_LOG": "json", "LUTHIER_HOME": "/x", "LUTHIER_WORKER": "false"}
    settings = Settings.read(file, environment, port=3, log=None)
    assert (settings.port, settings.host, settings.log, settings.worker) == (3, "localhost", "json", False)
    assert settings.hosts() >= {"a", "b", "localhost", "127.0.0.1", "::1"}
    assert Settings.read(environment={"LUTHIER_ALLOWED_HOSTS": "c,d"}).allowed_hosts == ("c", "d")


@pytest.mark.parametrize(
    ("text", "code"),
    [("prot = 1", "unknown_key"), ("port = 70000", "bad_value"), ("port", "bad_toml"), ('certificate = "x.pem"', "bad_value")],
)
def test_settings_that_do_not_do(tmp_path: Path, text: str, code: str) -> None:
    file = tmp_path / "luthier.toml"
    file.write_text(text)
    with pytest.raises(SpecError) as caught:
        Settings.read(file, {})
    assert caught.value.code == code


def test_keys_never_travel_in_the_clear() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.4", "server.example", ""):
        with pytest.raises(SpecError, match="in the clear"):
            Settings.read(environment={}, host=host)
        assert Settings.read(environment={}, host=host, behind_proxy=True).host == host
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert Settings.read(environment={}, host=host).host == host


def test_every_setting_is_explained() -> None:
    assert not [name for name, field in Settings.model_fields.items() if not field.description]


def test_torch_is_not_needed_to_listen() -> None:
    """It takes seconds to import; /healthz answers before."""
    code = (
        "import sys; import luthier.server.run; from luthier.server.endpoints import ENDPOINTS;"
        "[ENDPOINTS.load(name) for name in ENDPOINTS.names()]; sys.exit(sum(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
