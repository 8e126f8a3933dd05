"""The lines of a batch: those that are asked, and the answers so far.

The answers lie in a journal of this machine, a line each as it comes. A process that is killed leaves at most half a line, which the next
one cuts off; what stands there is not asked again, so no line is answered twice in what the user gets.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from luthier.core.errors import StorageError
from luthier.core.files import storing
from luthier.core.home import home
from luthier.store import ids

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
"""What can be asked in a batch."""

MOST_LINES = 50_000
MOST_LINE = 16 << 20
"""Bytes of one line."""

MOST_PROBLEMS = 100
"""Problems told of one file: who has more has one that repeats."""


@dataclass(frozen=True)
class Request:
    """One line, as it is asked. endpoint: ``/v1/chat/completions`` and the like. key: whose turn it uses up."""

    endpoint: str
    body: dict[str, Any]
    project_id: str
    key: str


@dataclass(frozen=True)
class Reply:
    """What the endpoint would have answered: status and body of HTTP."""

    status: int
    body: dict[str, Any]


Answer = Callable[[Request], Reply]
"""Answers one request, and blocks meanwhile. What it raises becomes that line's error."""


@dataclass(frozen=True, slots=True)
class Line:
    """One request. number: of the line in the file, from 1."""

    number: int
    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a file cannot be taken, as the wire tells it."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The wire's four fields."""
        return {"code": self.code, "message": self.message, "line": self.line, "param": self.param}


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file holds. model: that of the first line."""

    count: int
    model: str
    problems: list[Problem]


def check(file: Path, endpoint: str) -> Checked:
    """How many requests there are, and what is wrong with them."""
    seen: set[str] = set()
    problems: list[Problem] = []
    count, model = 0, ""
    for number, raw in _raw(file):
        count += 1
        found = _parsed(number, raw, endpoint)
        if isinstance(found, Line) and found.custom_id in seen:
            found = Problem("duplicate_custom_id", f"The custom_id {found.custom_id!r} was there before.", number, "custom_id")
        if isinstance(found, Problem):
            problems.append(found)
        else:
            seen.add(found.custom_id)
            model = model or found.body["model"]
        if len(problems) == MOST_PROBLEMS or count > MOST_LINES:
            break
    if not count:
        problems.append(Problem("empty_file", "The file has no requests."))
    if count > MOST_LINES:
        problems.append(Problem("too_many_tasks", f"The file has more than {MOST_LINES:,} requests."))
    return Checked(count, model, problems)


def lines(file: Path, endpoint: str) -> Iterator[Line]:
    """The requests of a file that was checked."""
    for number, raw in _raw(file):
        found = _parsed(number, raw, endpoint)
        assert isinstance(found, Line), "it was checked"
        yield found


def _raw(file: Path) -> Iterator[tuple[int, bytes]]:
    with open(file, "rb") as source:
        number = 0
        while raw := source.readline(MOST_LINE + 1):
            number += 1
            if raw.strip():
                yield number, raw


def _parsed(number: int, raw: bytes, endpoint: str) -> Line | Problem:
    if len(raw) > MOST_LINE:
        return Problem("line_too_long", f"The line has more than {MOST_LINE:,} bytes.", number)
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError):
        return Problem("invalid_json_line", "The line is not one JSON object.", number)
    if not isinstance(content, dict):
        return Problem("invalid_json_line", "The line is not one JSON object.", number)
    custom_id, body = content.get("custom_id"), content.get("body")
    if not isinstance(custom_id, str) or not custom_id:
        return Problem("missing_required_parameter", "The line has no custom_id.", number, "custom_id")
    if content.get("method") != "POST":
        return Problem("invalid_method", "The method must be POST.", number, "method")
    if content.get("url") != endpoint:
        return Problem("mismatched_endpoint", f"The url must be the batch's, {endpoint}.", number, "url")
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return Problem("missing_required_parameter", "The body names no model.", number, "body.model")
    return Line(number, custom_id, body)


def told(line: Line, reply: Reply | None = None, error: dict[str, str] | None = None) -> dict[str, Any]:
    """One line of an output file, as the wire wants it."""
    request = ids.new("req_")
    response = None if reply is None else {"status_code": reply.status, "request_id": request, "body": reply.body}
    why = None if error is None else {"code": error["code"], "message": error["message"]}
    return {"id": ids.new("batch_req_"), "custom_id": line.custom_id, "response": response, "error": why}


def seconds(window: str) -> float:
    """Seconds of a completion window such as ``24h``."""
    return float(window[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[window[-1]]


class Journal:
    """Answers of one batch, so far. One process at a time has it.

    Attributes:
        done: numbers of the lines that are answered; failed: how many of them with an error.
    """

    def __init__(self, batch_id: str) -> None:
        self.folder = home() / "batches" / batch_id
        with storing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = open(self.folder / "answers.jsonl", "a+b")  # noqa: SIM115 - closed by `close`
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            what = "Another process answers this batch."
            raise StorageError(what, where=str(self.folder), remedy="Leave it to that one.", code="batch_busy") from error
        self._writing = threading.Lock()
        self._places: dict[int, tuple[int, int, bool]] = {}  # number -> where its answer begins, its length, whether it is an error
        self._recover()

    @property
    def done(self) -> frozenset[int]:
        """See the class."""
        return frozenset(self._places)

    @property
    def failed(self) -> int:
        """See the class."""
        return sum(is_error for _, _, is_error in list(self._places.values()))

    def add(self, number: int, answer: dict[str, Any], *, is_error: bool) -> None:
        """Keep an answer."""
        raw = json.dumps({"n": number, "error": is_error, "answer": answer}, ensure_ascii=False).encode() + b"\n"
        with self._writing, storing(self.folder):
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(raw)
            self._file.flush()
            self._places[number] = (start, len(raw), is_error)

    def answers(self, *, errors: bool) -> Iterator[bytes]:
        """The answers, or the errors, in the order of their lines, as lines of a file."""
        for number in sorted(self._places):
            start, length, is_error = self._places[number]
            if is_error == errors:
                with self._writing:
                    self._file.seek(start)
                    raw = self._file.read(length)
                yield json.dumps(json.loads(raw)["answer"], ensure_ascii=False).encode() + b"\n"

    def usage(self) -> dict[str, Any]:
        """Tokens of all answers, as the wire tells them of a batch."""
        read = written = cached = 0
        for raw in self.answers(errors=False):
            usage = json.loads(raw)["response"]["body"].get("usage") or {}
            read += usage.get("prompt_tokens") or 0
            written += usage.get("completion_tokens") or 0
            cached += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return {
            "input_tokens": read,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": read + written,
        }

    def close(self, *, remove: bool = False) -> None:
        """Let go of it; `remove` when everything in it is kept elsewhere."""
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._file.close()

    def _recover(self) -> None:
        """Read what stands there; half a line at the end is cut off."""
        self._file.seek(0)
        start = 0
        for raw in self._file:
            try:
                content = json.loads(raw) if raw.endswith(b"\n") else None
            except ValueError:
                content = None
            if content is None:
                break
            self._places[content["n"]] = (start, len(raw), content["error"])
            start += len(raw)
        self._file.truncate(start)
