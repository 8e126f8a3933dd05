"""Errors as the wire shows them: ``{"error": {"message", "type", "param", "code"}}``, and never anything of our insides.

The client picks its exception by the status and retries 408, 409, 429 and all from 500. So what cannot get better by trying again,
such as pausing a job that is over, is a 400. A status from 500 is a bug of ours or a machine in trouble.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import HTTPException as FastapiException
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from luthier.core.errors import Forbidden, LuthierError, NotFound, ResultError, StorageError, TooMuch, Unauthenticated

INVALID = "invalid_request_error"
log = logging.getLogger("luthier.server")

FIELD = re.compile(r"[a-z_]+(\.[a-z0-9_]+)*")
"""A place in an error that is a field of the request, and no file of ours."""

PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "it takes letters, digits, dots, dashes and underscores, and begins with a letter or digit",
    r"^[0-9]{1,9}$": "it takes the number of a token",
}
"""In words, what a pattern of `wire` wants."""

AGAIN = frozenset({"closing", "models_full", "too_late"})
"""Trouble of answers that passes by itself. What an adapter is refused for does not: asking again would change nothing."""

AS_CLIENTS_KNOW = {
    "prompt_too_long": "context_length_exceeded",
    "unknown_model": "model_not_found",
    "wrong_key": "invalid_api_key",
    "rate_limit": "rate_limit_exceeded",
}
"""Codes that programs around the client look for by their name at OpenAI; others are ours."""

SCALARS = ("str", "int", "float", "bool", "constrained-int", "constrained-str")
STATUS_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class WireError(FastapiException):
    """A request that is answered with an error. FastAPI's own class, so that it comes through where FastAPI reads a body.

    Args:
        status: HTTP status. message: for people, ends with what to do. param: name of the field at fault. code: stable name.
        headers: e.g. ``retry-after``.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, dict(headers or {}))
        self.message, self.param, self.code = message, param, code

    @property
    def content(self) -> dict[str, Any]:
        """The JSON that says it."""
        return body(self.status_code, self.message, param=self.param, code=self.code)

    def response(self) -> JSONResponse:
        """The answer that says it."""
        return JSONResponse(self.content, self.status_code, headers=self.headers)


def body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The JSON of an error."""
    kind = STATUS_TYPES.get(status, "server_error" if status >= 500 else INVALID)
    return {"error": {"message": message, "type": kind, "param": param, "code": AS_CLIENTS_KNOW.get(code or "", code)}}


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> WireError:
    """400: the request itself is wrong."""
    return WireError(400, message, param=param, code=code)


def not_there(noun: str, id: str, *, param: str | None = "id") -> WireError:
    """404: no such thing for this project; what belongs to another project is answered just so."""
    return WireError(404, f"No such {noun}: {printable(id)}", param=param, code="not_found")


def printable(text: str, longest: int = 80) -> str:
    """`text` of a stranger, short and without control characters, for a message."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text[: longest + 1])
    return clean if len(clean) <= longest else clean[:longest] + "..."


def from_luthier(error: LuthierError) -> WireError:
    """An error of the floors below. Places on our disk, and what went wrong inside, are told to the log only."""
    if isinstance(error, StorageError):
        log.error("storage: %s", error)
        return WireError(503, "The service cannot read or write what it keeps at the moment. Try again later.", code="storage")
    if error.code == "answer_failed":
        log.error("answer: %s", error)
        return WireError(500, "The answer failed, and the log says why. Please report it to whoever runs this service.", code=error.code)
    message = f"{error.what} {error.remedy}".strip()
    if isinstance(error, TooMuch):
        again = {} if error.retry_after is not None else {"x-should-retry": "false"}
        return WireError(429, message, code=error.code, headers=error.headers | again)
    if isinstance(error, ResultError) and error.code in AGAIN:
        return WireError(503, message, code=error.code, headers={"retry-after": "5"})
    headers = {"www-authenticate": "Bearer"} if isinstance(error, Unauthenticated) else {}
    param = error.where if FIELD.fullmatch(error.where) else None
    return WireError(_status(error), message, param=param, code=error.code, headers=headers)


def _status(error: LuthierError) -> int:
    if error.code == "bad_cursor":
        return 400
    statuses: tuple[tuple[type[LuthierError], int], ...] = ((Unauthenticated, 401), (Forbidden, 403), (NotFound, 404))
    return next((status for kind, status in statuses if isinstance(error, kind)), 400)


def from_validation(error: RequestValidationError) -> WireError:
    """What pydantic found, first complaint first; a 422 of FastAPI is a 400 on this wire."""
    complaints = error.errors()
    first = complaints[0]
    place = [str(part) for part in first["loc"][1:] if not _is_branch(part)]
    if first["type"] == "json_invalid":
        return invalid(f"This is not JSON: {first.get('ctx', {}).get('error', 'it cannot be read')}.", code="invalid_json")
    if not place and (first["type"] == "missing" or isinstance(first["input"], bytes)):
        return invalid("This request needs a body of JSON, sent as Content-Type: application/json.", code="missing_body")
    param = ".".join(place) or None
    if first["type"] == "missing":
        return invalid(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")
    code = "invalid_type" if first["type"].endswith(("_type", "_parsing")) else "invalid_value"
    said = _said(complaints, place)
    return invalid(f"Invalid '{param}': {said}." if param else f"Invalid request: {said}.", param=param, code=code)


def _said(complaints: Sequence[Any], place: list[str]) -> str:
    """What is wrong at `place`: where a field may be one of several things, what each of them wants. pydantic tells of each by itself."""
    here = [c for c in complaints if [str(part) for part in c["loc"][1:] if not _is_branch(part)] == place]
    return "; or ".join(dict.fromkeys(PATTERNS.get(c.get("ctx", {}).get("pattern", ""), c["msg"]) for c in here))


def _is_branch(part: int | str) -> bool:
    """pydantic names the branch of a union it tried, e.g. ``list[str]`` or ``function-before[...]``; nobody wrote that."""
    return isinstance(part, str) and (part in SCALARS or any(letter in part for letter in "[]()"))


async def on_wire_error(request: Request, error: Exception) -> JSONResponse:
    """Handler of `WireError`."""
    assert isinstance(error, WireError)
    return error.response()


async def on_luthier_error(request: Request, error: Exception) -> JSONResponse:
    """Handler of `LuthierError`."""
    assert isinstance(error, LuthierError)
    return from_luthier(error).response()


async def on_validation_error(request: Request, error: Exception) -> JSONResponse:
    """Handler of FastAPI's 422."""
    assert isinstance(error, RequestValidationError)
    return from_validation(error).response()


async def on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Handler of what the router says: no such path, no such method."""
    assert isinstance(error, HTTPException)
    message = {
        404: f"Unknown request URL: {request.method} {printable(request.url.path)}. See /openapi.json for what there is.",
        405: f"{request.method} is not allowed here. See /openapi.json for what is.",
    }.get(error.status_code, str(error.detail))
    code = {404: "unknown_url", 405: "method_not_allowed"}.get(error.status_code)
    return WireError(error.status_code, message, code=code, headers=error.headers or {}).response()
