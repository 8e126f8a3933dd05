"""Bodies of JSON: read once, refused when they are made to hurt (deep nesting, NUL, NaN), compressed bodies not read at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from luthier.server.errors import WireError, invalid

DEEPEST = 64
"""Levels of lists and objects; a JSON schema for answers rarely has ten."""

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class JsonRequest(Request):
    """A request whose JSON is read by orjson: no NaN, no lone surrogates, no endless nesting."""

    async def json(self) -> Any:
        """The body as plain values.

        Raises:
            WireError: it is compressed, too deep, or holds a NUL, which databases do not store.
            json.JSONDecodeError: it is not JSON.
        """
        if not hasattr(self, "_read"):
            self._read = parse(await self.body())
        return self._read


class Route(APIRoute):
    """The route of every endpoint: its JSON is read by `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, given our request. Its own errors while reading a body are kept as they are."""
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            encoding = request.headers.get("content-encoding", "identity").lower()
            if encoding != "identity":
                raise WireError(415, "Compressed requests are not read. Send it plainly.", code="unsupported_encoding")
            return await handle(JsonRequest(request.scope, request.receive))

        return handler


def parse(body: bytes) -> Any:
    """JSON of a stranger as plain values. Raises as `JsonRequest.json`."""
    if _NUL.search(body):
        raise invalid("The JSON holds a NUL character. Leave it out.", code="invalid_json")
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "ecursion" in str(error):
            raise _too_deep() from None
        raise json.JSONDecodeError(error.msg, "", error.pos) from None
    if is_deeper(content, DEEPEST):
        raise _too_deep()
    return content


def is_deeper(content: Any, limit: int) -> bool:
    """Whether lists and objects are nested more than `limit` levels. Level by level, so that depth costs no stack."""
    level = [content]
    for _ in range(limit + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _too_deep() -> WireError:
    return invalid(f"The JSON is nested more than {DEEPEST} levels deep. Make it flatter.", code="invalid_json")
