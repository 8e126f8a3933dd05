"""Processes that share out the blocks of a large file of lines, and give back what they found in the order of the file.

They are new interpreters (`luthier.data.worker`), not forks: a fork would take over locks of threads it does not have. Requests and answers
are a line of JSON and the bytes it announces; nothing is pickled. A worker that is left alone (its parent was killed) finds its pipe closed
and ends; Ctrl-C is the parent's to handle.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import orjson

from luthier.core import errors
from luthier.core.errors import DataError, LuthierError
from luthier.data.recognise import Recognition

LEAST_BYTES = 16 << 20
"""Smaller files are read here: a worker needs half a second to begin."""
_AHEAD = 2  # requests a worker has before it: it begins the next one while its answer is being read

_KEPT = str(1 << 29)
"""Bytes glibc does not give back: without it page faults take as long as all work on arrays (near duplicates 17 us a row, with it 4)."""

Answer = tuple[dict[str, Any], list[bytes]]


def workers(path: Path, recognition: Recognition) -> int:
    """How many processes should read `path`; 0: read it here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shared = recognition.container == "lines" and "gzip" not in recognition.details and path.stat().st_size >= LEAST_BYTES
    return cores if shared and cores > 1 else 0


class Pool:
    """Some workers at one task. Use it as a context: they end with it.

    Args:
        count: how many. task: what they do and with what, as plain fields (see `luthier.data.worker`); it is handed over once.
    """

    def __init__(self, count: int, task: dict[str, Any]) -> None:
        root = str(Path(__file__).parents[2])
        keep = {"MALLOC_TRIM_THRESHOLD_": _KEPT, "MALLOC_MMAP_THRESHOLD_": _KEPT}  # arrays of the same sizes come again and again
        alone = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "PYTHONPATH": root, **keep}
        command = [sys.executable, "-m", "luthier.data.worker"]
        self._members: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                self._members.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **alone}))
            for worker in self._members:
                self._say(worker, task)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    def answers(self, requests: Iterable[dict[str, Any]]) -> Iterator[Answer]:
        """The answer to each request, in their order.

        Raises:
            LuthierError: what a worker raised. DataError: a worker ended without an answer (code ``reader_died``).
        """
        waiting: deque[subprocess.Popen[bytes]] = deque()
        for number, request in enumerate(requests):
            worker = self._members[number % len(self._members)]
            self._say(worker, request)
            waiting.append(worker)
            if len(waiting) == _AHEAD * len(self._members):
                yield self._heard(waiting.popleft())
        while waiting:
            yield self._heard(waiting.popleft())

    def _say(self, worker: subprocess.Popen[bytes], fields: dict[str, Any]) -> None:
        assert worker.stdin is not None
        try:
            send(worker.stdin, fields, [])
        except BrokenPipeError:
            raise _died(worker) from None

    def _heard(self, worker: subprocess.Popen[bytes]) -> Answer:
        assert worker.stdout is not None
        answer = receive(worker.stdout)
        if answer is None:
            raise _died(worker)
        fields, arrays = answer
        if "error" in fields:
            kind = getattr(errors, fields["kind"], None)
            if kind is None:
                raise RuntimeError(fields["error"]["message"])
            raise _raised(kind, fields["error"])
        return fields, arrays

    def _end(self) -> None:
        for worker in self._members:
            worker.kill()
            with worker:  # closes its pipes, waits
                pass


def send(pipe: IO[bytes], fields: dict[str, Any], arrays: list[bytes]) -> None:
    """Write a message: a line of JSON, then the arrays it announces."""
    pipe.write(orjson.dumps({"fields": fields, "sizes": [len(array) for array in arrays]}) + b"\n")
    for array in arrays:
        pipe.write(array)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Answer | None:
    """The next message, or None at the end."""
    line = pipe.readline()
    if not line.endswith(b"\n"):
        return None
    message = orjson.loads(line)
    arrays = [pipe.read(size) for size in message["sizes"]]
    whole = all(len(array) == size for array, size in zip(arrays, message["sizes"], strict=True))
    return (message["fields"], arrays) if whole else None


def _raised(kind: type[LuthierError], told: dict[str, str]) -> LuthierError:
    return kind(told["message"], where=told["where"], remedy=told["remedy"], code=told["code"])


def _died(worker: subprocess.Popen[bytes]) -> DataError:
    status = worker.wait()
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return DataError(
        f"A process that reads the data {how} before it was done.",
        remedy="Begin again; if memory was short, close other programs or bind the command to one core, then no process is begun.",
        code="reader_died",
    )
