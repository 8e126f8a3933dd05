"""What a service is told at its start: from a file, the environment and the command line, in this order; later ones win.

    [luthier.toml]            environment                flag
    port = 8000               LUTHIER_PORT=8000          --port 8000
    allowed_hosts = ["x"]     LUTHIER_ALLOWED_HOSTS=x,y

A name nobody knows is an error, with the nearest known one. Defaults stand here and nowhere else.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from luthier.core.errors import SpecError
from luthier.core.spec import checked
from luthier.security.limits import Limits
from luthier.store.database import default_url

PREFIX = "LUTHIER_"
LIMITS = Limits()
MEBIBYTE = 1 << 20

Names = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: tuple(filter(None, value.split(","))) if isinstance(value, str) else value)
]
"""Several words: a list in the file, commas in the environment."""


class Settings(BaseModel):
    """Everything a service can be told."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str = "127.0.0.1"
    """Address to listen on. Beyond loopback it takes a certificate, or `behind_proxy`."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and says which."""
    database: str = Field("", repr=False)
    """URL of the database; empty is SQLite in LUTHIER_HOME. PostgreSQL: ``postgresql+psycopg://user:password@host/name``."""
    blobs: str = ""
    """Where bytes of files lie: a folder, or ``s3://``, ``gs://``, ``az://``; empty is LUTHIER_HOME/blobs."""
    worker: bool = True
    """Start a worker beside the service, and again should it die."""
    backend: str = "here"
    """Who answers chats: ``here``, or ``openai:URL`` of another engine that speaks the same wire."""
    backend_key: str = Field("", repr=False)
    """Key for that engine, where it wants one."""
    cache_bytes: int = Field(0, ge=0)
    """Keys and values kept for each base; 0 is an eighth of the memory, as is `adapter_bytes`, and `model_bytes` a half."""
    adapter_bytes: int = Field(0, ge=0)
    """Adapters kept beside each base."""
    model_bytes: int = Field(0, ge=0)
    """All bases together, with the copy that is laid out for the processor."""
    most_rows: int = Field(0, ge=0)
    """Answers written at once, for each base; 0 is 64."""
    certificate: str = ""
    """File of the TLS certificate chain (PEM)."""
    certificate_key: str = ""
    """File of its private key (PEM)."""
    behind_proxy: bool = False
    """Listen beyond loopback without TLS, because something before it does TLS."""
    allowed_hosts: Names = ()
    """Host names by which clients may call, beside loopback and `host`."""
    allowed_origins: Names = ()
    """Web pages (``https://name``) whose scripts may call; none by default."""
    file_bytes: int = Field(512 * MEBIBYTE, ge=1)
    """Largest file in one piece."""
    upload_bytes: int = Field(8192 * MEBIBYTE, ge=1)
    """Largest file in parts."""
    body_bytes: int = Field(16 * MEBIBYTE, ge=1024)
    """Largest request that is not a file."""
    idle_seconds: float = Field(60.0, gt=0)
    """Longest wait for the next bytes of a request."""
    answer_seconds: float = Field(600.0, gt=0)
    """Longest time an answer that is not a stream may take."""
    grace_seconds: float = Field(30.0, ge=0)
    """How long streams may go on after the service was asked to stop."""
    requests_per_minute: int = Field(LIMITS.requests_per_minute, ge=0)
    """What a key may ask in a minute; this and what follows holds unless a key says otherwise."""
    tokens_per_minute: int = Field(LIMITS.tokens_per_minute, ge=0)
    """Tokens a key may have read and written in a minute."""
    concurrent: int = Field(LIMITS.concurrent, ge=0)
    """Requests of a key at once."""
    storage_bytes: int = Field(LIMITS.storage_bytes, ge=0)
    """Bytes a project may keep in files."""
    jobs: int = Field(LIMITS.jobs, ge=0)
    """Jobs of a project that may wait or run."""
    log: Literal["words", "json"] = "words"
    """How the service tells what it does, on standard error; never with prompts or answers in it."""
    private_webhooks: bool = False
    """Let webhooks go to addresses of the own network, and over http; for tests and closed networks."""
    price_per_hour: float = Field(0.0, ge=0)
    """What an hour of this machine costs, for forecasts."""
    currency: str = Field("EUR", pattern=r"^[A-Z]{3}$")
    """Currency of that price."""

    @classmethod
    def read(cls, file: Path | None = None, environment: Mapping[str, str] = os.environ, **said: Any) -> Settings:
        """Settings from a TOML file, ``LUTHIER_NAME`` in the environment, and what was said on the command line (`None` is unsaid).

        Raises:
            SpecError: the file is not there or not TOML, a name is unknown, or a value out of range.
        """
        content = _toml(file) if file else {}
        content |= {name: value for name in cls.model_fields if (value := environment.get(PREFIX + name.upper())) is not None}
        content |= {name: value for name, value in said.items() if value is not None}
        settings = checked(cls, content, where=str(file or "settings"))
        settings.may_listen()
        return settings

    def may_listen(self) -> None:
        """Refuse to let keys travel over a network in the clear.

        Raises:
            SpecError: it would listen beyond loopback without TLS.
        """
        if bool(self.certificate) != bool(self.certificate_key):
            raise SpecError("A certificate and its key come together.", remedy="Set both, or neither.", code="bad_value")
        if not (self.certificate or self.behind_proxy or is_loopback(self.host)):
            remedy = "Give --certificate and --certificate-key, or --behind-proxy if something before it does TLS."
            raise SpecError(f"Keys would travel in the clear: {self.host} is not loopback.", remedy=remedy, code="open_network")

    def hosts(self) -> frozenset[str]:
        """Names a request's Host header may have, without port, in lower case."""
        own = {self.host} if not _is_every(self.host) else set()
        return frozenset(name.lower().strip("[]") for name in {"localhost", "127.0.0.1", "::1", *own, *self.allowed_hosts})

    def limits(self) -> Limits:
        """What a key may that says nothing else."""
        return Limits(**{name: getattr(self, name) for name in asdict(LIMITS)})

    def database_url(self) -> str:
        """The database, with the default filled in."""
        return self.database or default_url()


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_every(host: str) -> bool:
    return host in ("0.0.0.0", "::", "[::]", "")


def _toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError("This file cannot be read.", where=str(file), remedy="Check --config.", code="no_spec") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"This is not TOML: {error}.", where=str(file), remedy="One `name = value` a line.", code="bad_toml") from error
