"""The body of every error."""

from __future__ import annotations

from typing import Any

from luthier.server.wire._base import Answer


class Fault(Answer):
    """message: for people. type: the kind. param: the field at fault. code: stable, see docs/errors.md."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Answer):
    """What every status from 400 carries."""

    error: Fault


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For FastAPI's ``responses``: these statuses carry an `ErrorBody`."""
    return {status: {"model": ErrorBody, "description": MEANINGS[status]} for status in statuses}


MEANINGS = {
    400: "The request is wrong.",
    401: "There is no valid key.",
    403: "The key may not do this.",
    404: "There is no such thing in this project.",
    405: "This method is not known here.",
    408: "The request stopped coming.",
    413: "The request is too large.",
    415: "The request is compressed.",
    421: "The host is not ours.",
    429: "Too much was asked; retry-after says when to come again.",
    500: "A bug.",
    503: "The machine is in trouble or busy; try again.",
}
EVERYWHERE = tuple(sorted(set(MEANINGS) - {404, 415}))
