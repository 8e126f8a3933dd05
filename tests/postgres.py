"""A PostgreSQL cluster of the tests' own: in a temporary folder, reached through a socket in that folder, gone at the end.

    cluster = Cluster.start()
    cluster.create("one")
    Database.connect(cluster.url("one"))
    cluster.stop()

PostgreSQL refuses to run as root, so under root it runs as the user `postgres` or `nobody`. It dies with the process that started it, even
where that is killed.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ALWAYS = ("shared_buffers=32MB", "max_connections=200", "listen_addresses=")
CARELESS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
PATIENCE = 30.0
"""Seconds a start may take on a busy machine; mostly it is one."""


class NoPostgres(Exception):
    """There is no PostgreSQL here, or nobody to run it as."""


def programs() -> Path:
    """The folder with `initdb` and `postgres`: that on the path, else the newest of Debian's."""
    found = [Path(os.path.realpath(place)).parent for name in ("postgres", "initdb") if (place := shutil.which(name))]
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: -float(folder.parent.name))
    for folder in [*found, *debian]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoPostgres("PostgreSQL is not installed (Debian: apt-get install postgresql)")


def _as_whom() -> dict[str, Any]:
    """Arguments of a child process that make it run as somebody other than root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise NoPostgres("PostgreSQL does not run as root, and there is no user postgres or nobody")


@dataclass
class Cluster:
    """A running server with databases that nobody else uses."""

    folder: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, *, careless: bool = True) -> Cluster:
        """Make a cluster and wait until it answers.

        Args:
            careless: nothing need survive a power cut, which is what makes it fast; a bench wants it as in service.

        Raises:
            NoPostgres: it is not installed, or does not start; the message has the end of its log.
        """
        place, whom = programs(), _as_whom()
        # Not pytest's folder: only its owner may enter that. The name is short because a socket's path may have 107 characters.
        folder = Path(tempfile.mkdtemp(prefix="luthier-pg-"))
        if whom:
            os.chown(folder, whom["user"], whom["group"])
        make = [place / "initdb", "-D", folder / "data", "-U", "luthier", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(make, cwd=folder, capture_output=True, text=True, check=False, **whom)
        if made.returncode:
            shutil.rmtree(folder)
            raise NoPostgres(f"initdb failed: {made.stderr[-500:]}")
        serve = [
            place / "postgres",
            "-D",
            folder / "data",
            "-k",
            folder,
            *(part for one in ALWAYS + CARELESS * careless for part in ("-c", one)),
        ]
        leash = [found, "--pdeathsig", "QUIT"] if (found := shutil.which("setpriv")) else []
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen([*leash, *serve], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **whom)
        cluster = cls(folder, process)
        cluster._wait()
        return cluster

    def url(self, name: str) -> str:
        """The address of a database in it."""
        return f"postgresql+psycopg://luthier@/{name}?host={self.folder}"

    def create(self, name: str, *, template: str = "template1") -> str:
        """Make a database, a copy of another one if so wished (which nobody may be using); returns its address."""
        self._tell(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def drop(self, name: str) -> None:
        """Remove a database, whoever still uses it."""
        self._tell(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def stop(self) -> None:
        """End the server at once and remove its folder."""
        self.process.send_signal(3)  # SIGQUIT: at once, without tidying
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tell(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(host=str(self.folder), user="luthier", dbname="postgres", autocommit=True) as connection:
            connection.execute(statement.encode())

    def _wait(self) -> None:
        import psycopg

        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self._tell("SELECT 1")
            except psycopg.OperationalError:
                if self.process.poll() is not None or time.monotonic() > end:
                    log = (self.folder / "log").read_text(errors="replace")
                    self.stop()
                    raise NoPostgres(f"PostgreSQL did not start: {log[-500:]}") from None
                time.sleep(0.02)
