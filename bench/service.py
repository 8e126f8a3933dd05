"""The service as a process: how soon it answers, what a large upload takes of its memory, and what a killed one leaves behind.

    python bench/service.py [--gigabytes 1] [--repeat 5] [--out results/service.json]

* **start**: from the command `luthier serve` to the first 200 of /healthz; the first start makes the database and is shown, not counted.
* **upload**: a file of so many gigabytes, once in one piece (`file_bytes` raised) and once in parts of 64 MiB through the `openai` client,
  into a service that has loaded everything. Memory is the resident set of the process, looked at every 20 ms; growth is its highest value
  less that before the upload.
* **killed**: half of a file is sent, then the service is killed (-9); another is sent by a client that leaves. After the time in which
  leftovers are kept, a service that starts finds and removes them: what is left in the folder of blobs is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil

MEBIBYTE = 1 << 20
PIECE = os.urandom(MEBIBYTE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--smoke", action="store_true", help="one start, 8 MiB")
    asked = parser.parse_args()
    size = 8 * MEBIBYTE if asked.smoke else int(asked.gigabytes * 1024) * MEBIBYTE
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        starts = [start(home) for _ in range(1 if asked.smoke else asked.repeat + 1)]
        told: dict[str, Any] = {"start": {"first": starts[0], "later": starts[1:]}, "bytes": size}
        print(f"/healthz after {starts[0]:.2f} s (first start)" + (f", then {statistics.median(starts[1:]):.2f} s" if starts[1:] else ""))
        with served(home, file_bytes=2 * size, worker=False) as service:
            for name, send in (("one piece", one_piece), ("parts", in_parts)):
                told[name] = upload(service, name, send, size)
        told["left"] = killed(home, size // 2)
        print(f"after kill and leave: {told['left']} files left among the blobs")
    if asked.out:
        asked.out.write_text(json.dumps(told, indent=1) + "\n")


class Service:
    """A running `luthier serve`."""

    key = ""

    def __init__(self, home: Path, **settings: Any) -> None:
        environment = {**os.environ, "LUTHIER_HOME": str(home), "LUTHIER_BLOBS": str(home / "blobs")}
        environment |= {f"LUTHIER_{name.upper()}": str(value) for name, value in settings.items()}
        command = [sys.executable, "-m", "luthier", "serve", "--port", "0", "--json"]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout
        said = json.loads(self.process.stdout.readline())
        self.url = said["url"].removesuffix("/v1")
        Service.key = said["key"] or Service.key

    def ask(self, path: str) -> int:
        """The status of a GET."""
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(self.url + path, timeout=5).status_code
        return 0


@contextlib.contextmanager
def served(home: Path, **settings: Any) -> Iterator[Service]:
    """A service that has loaded everything, ended in order."""
    service = Service(home, **settings)
    try:
        while service.ask("/readyz") != 200:
            time.sleep(0.1)
        yield service
    finally:
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(60)


def start(home: Path) -> float:
    """Seconds from the command to /healthz."""
    begun = time.perf_counter()
    service = Service(home, worker=False)
    while service.ask("/healthz") != 200:
        time.sleep(0.005)
    seconds = time.perf_counter() - begun
    service.process.send_signal(signal.SIGTERM)
    service.process.wait(60)
    return seconds


def upload(service: Service, name: str, send: Any, size: int) -> dict[str, float]:
    """Send, while somebody looks at the memory."""
    process, seen, stop = psutil.Process(service.process.pid), [0], threading.Event()

    def look() -> None:
        while not stop.wait(0.02):
            seen.append(process.memory_info().rss)

    send(service, 2 * MEBIBYTE)  # what the first upload of all loads is not this upload's
    before = process.memory_info().rss
    watcher = threading.Thread(target=look)
    watcher.start()
    begun = time.perf_counter()
    send(service, size)
    seconds = time.perf_counter() - begun
    stop.set()
    watcher.join()
    growth = max(seen) - before
    print(f"{name:<10} {size / 1e6:,.0f} MB in {seconds:.1f} s: memory {before / 1e6:.0f} MB, highest growth {growth / 1e6:.1f} MB")
    return {"seconds": seconds, "before": before, "growth": growth}


def pieces(size: int) -> Iterator[bytes]:
    for _ in range(size // MEBIBYTE):
        yield PIECE


def form(size: int) -> Iterator[bytes]:
    """A form with a file of `size` bytes, none of which the sender holds either."""
    yield b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="large.bin"\r\n\r\n'
    yield from pieces(size)
    yield b"\r\n--b--\r\n"


def one_piece(service: Service, size: int) -> None:
    headers = {"authorization": f"Bearer {service.key}", "content-type": "multipart/form-data; boundary=b"}
    answer = httpx2.post(f"{service.url}/v1/files", content=form(size), headers=headers, timeout=600)
    assert answer.status_code == 200 and answer.json()["bytes"] == size, answer.text
    httpx2.delete(f"{service.url}/v1/files/{answer.json()['id']}", headers=headers, timeout=60)


def in_parts(service: Service, size: int) -> None:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=service.key) as client:
        made = client.uploads.create(filename="large.bin", purpose="user_data", bytes=size, mime_type="application/octet-stream")  # type: ignore[arg-type]
        parts = []
        for start in range(0, size, 64 * MEBIBYTE):
            part = b"".join(pieces(min(64 * MEBIBYTE, size - start)))
            parts.append(client.uploads.parts.create(made.id, data=part).id)
        done = client.uploads.complete(made.id, part_ids=parts)
        assert done.file and done.file.bytes == size
        client.files.delete(done.file.id)


def killed(home: Path, size: int) -> int:
    """Files among the blobs after a kill and a client that leaves, once the time for leftovers is over."""
    from luthier.store import sweep
    from luthier.store.blobs import Blobs
    from luthier.store.database import Database

    def half(last: Any) -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="half.bin"\r\n\r\n'
        yield from pieces(size)
        time.sleep(0.5)  # what was sent is being read and written meanwhile
        last()

    def leave() -> None:
        raise ConnectionResetError

    for last in (leave, None):
        service = Service(home, worker=False)
        headers = {"authorization": f"Bearer {service.key}", "content-type": "multipart/form-data; boundary=b"}
        with contextlib.suppress(ConnectionResetError, httpx2.TransportError):
            httpx2.post(f"{service.url}/v1/files", content=half(last or service.process.kill), headers=headers, timeout=60)
        service.process.kill()
        service.process.wait()
    left = [path for path in (home / "blobs").rglob("*") if path.is_file()]
    for path in left:
        os.utime(path, (0, 0))  # instead of waiting for the minute in which a new file may still be without its lock
    database = Database.connect(f"sqlite:///{home / 'luthier.db'}")
    sweep.sweep(Blobs.open(database, str(home / "blobs")))
    database.close()
    print(f"{len(left)} files lay there when the processes had died")
    return sum(path.is_file() for path in (home / "blobs").rglob("*"))


if __name__ == "__main__":
    main()
