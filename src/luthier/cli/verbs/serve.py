"""The service: the OpenAI wire on your own machine, with a worker beside it."""

from __future__ import annotations

import contextlib
import json as _json
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.cli.verbs._place import Json


def run(
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 finds a free one. 8000 where nothing else is said.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Only this machine where nothing else is said.")] = None,
    database: Annotated[str | None, typer.Option(help="URL of the database; SQLite in LUTHIER_HOME where nothing else is said.")] = None,
    blobs: Annotated[str | None, typer.Option(help="Where files lie: a folder, s3://, gs:// or az://.")] = None,
    config: Annotated[Path | None, typer.Option(help="A luthier.toml with these settings and all others.")] = None,
    worker: Annotated[bool | None, typer.Option("--worker/--no-worker", help="Run a worker beside the service.")] = None,
    backend: Annotated[str | None, typer.Option(help="Who answers: here, or openai:URL.")] = None,
    certificate: Annotated[str | None, typer.Option(help="TLS certificate chain (PEM).")] = None,
    certificate_key: Annotated[str | None, typer.Option(help="Its private key (PEM).")] = None,
    behind_proxy: Annotated[bool | None, typer.Option("--behind-proxy", help="Something before it does TLS.")] = None,
    log: Annotated[str | None, typer.Option(help="words or json, on standard error.")] = None,
    json: Json = False,
) -> int:
    """Serve until Ctrl-C or SIGTERM. The first start makes a key and shows it once."""
    from luthier.server import logs
    from luthier.server.settings import Settings

    said: dict[str, Any] = {
        "port": port,
        "host": host,
        "database": database,
        "blobs": blobs,
        "worker": worker,
        "backend": backend,
        "certificate": certificate,
        "certificate_key": certificate_key,
        "behind_proxy": behind_proxy,
        "log": log,
    }
    settings = Settings.read(config, **said)
    logs.begin(settings.log)
    secret = _first_key(settings.database_url())
    from luthier.server.run import serve

    def listening(url: str) -> None:
        typer.echo(_json.dumps({"url": url, "key": secret}) if json else _welcome(url, secret))

    with contextlib.suppress(KeyboardInterrupt):  # how uvicorn passes on the signal that ended it, after an orderly end
        serve(settings, listening=listening)
    return 0


def _first_key(url: str) -> str | None:
    """The secret of the first key, where this is the first start."""
    from luthier.security.tenants import first_start
    from luthier.store.upgrade import open_database

    database = open_database(url)
    try:
        key = first_start(database)
    finally:
        database.close()
    return key.secret if key else None


def _welcome(url: str, secret: str | None) -> str:
    key = f"\n  key      {secret}\n           Keep it: it is not shown again (`luthier keys create` makes others)." if secret else ""
    return f"Luthier listens.\n  base_url {url}{key}\n  stop     Ctrl-C"
