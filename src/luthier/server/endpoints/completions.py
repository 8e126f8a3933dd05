"""``/v1/completions``: write on from a text."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from luthier.core.errors import LuthierError
from luthier.inference.serving.ask import Answering, Asked, Delta
from luthier.server import metrics, sse
from luthier.server.answering import chats, completions, flow
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.errors import from_luthier
from luthier.server.service import Ours, Service
from luthier.server.wire import completions as wire
from luthier.server.wire._base import ignored_by, reply
from luthier.server.wire._sampling import Usage
from luthier.server.wire.error import errors
from luthier.store import ids

router = APIRouter(prefix="/v1/completions", tags=["Completions"], route_class=Route)

STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}}}}


@dataclass
class Writing:
    """One request on its way: an answering for each prompt."""

    caller: Caller
    body: wire.CreateCompletion
    answerings: list[Answering]
    id: str
    created: int

    @property
    def facts(self) -> dict[str, Any]:
        """What every frame says."""
        return completions.facts(self.body, self.answerings, self.id, self.created)

    @property
    def num(self) -> int:
        """Answers for each prompt."""
        return self.body.n or 1

    @property
    def logprobs(self) -> bool:
        """Whether they are shown."""
        return self.body.logprobs is not None


@router.post("", response_model=wire.Completion, responses=STREAM | errors(404))
async def create(
    request: Request, body: wire.CreateCompletion, caller: Annotated[Caller, allowed("completion.create")], ours: Ours
) -> Response:
    """Write on from one text or several."""
    asked = completions.asked(body, key=caller.actor.name, seconds=ours.settings.answer_seconds)
    answerings = await to_thread.run_sync(_ask, ours, asked, caller.project_id)
    writing = Writing(caller, body, answerings, ids.new("cmpl-"), int(time.time()))
    if body.stream:
        begun = time.monotonic()
        deltas = flow.heard(answerings)
        first = await anext(deltas, None)  # what cannot be answered is told with a status, not in a stream
        metrics.first_token(time.monotonic() - begun)
        return StreamingResponse(_frames(writing, first, deltas), media_type=sse.MEDIA_TYPE, headers=sse.HEADERS)
    found = await flow.while_there(request, flow.whole(answerings))
    _counted(writing)
    return reply(completions.whole(body, answerings, found, writing.id, writing.created))


def _ask(ours: Service, asked: list[Asked], project_id: str) -> list[Answering]:
    """All prompts at once; if one is refused, those before it are given up."""
    answerings: list[Answering] = []
    try:
        for one in asked:
            answerings.append(ours.host.ask(one, project_id))
    except BaseException:
        for answering in answerings:
            answering.cancel()
        raise
    return answerings


def _counted(writing: Writing) -> Usage:
    used = completions.used(writing.answerings)
    writing.caller.grant.spent(used.prompt + used.completion)
    metrics.tokens(used.prompt, used.completion)
    return chats.usage(used)


async def _frames(writing: Writing, first: tuple[int, Delta] | None, rest: flow.Deltas) -> AsyncGenerator[bytes, None]:
    lengths: dict[int, int] = {}
    luthier = ignored_by(writing.body)
    try:
        async with aclosing(_from(first, rest)) as deltas:
            async for question, delta in deltas:
                index = question * writing.num + delta.index
                new = completions.chunk_choice(delta, index, lengths.get(index, 0), logprobs=writing.logprobs)
                lengths[index] = lengths.get(index, 0) + len(delta.text)
                yield _frame(wire.CompletionChunk(**writing.facts, choices=[new], luthier=luthier))
                luthier = None
        usage = _counted(writing)
        if writing.body.wants_usage:
            yield _frame(wire.CompletionChunk(**writing.facts, choices=[], usage=usage))
    except LuthierError as error:
        yield sse.frame(json.dumps(from_luthier(error).content))
        return
    yield sse.DONE


async def _from(first: tuple[int, Delta] | None, rest: flow.Deltas) -> flow.Deltas:
    if first is not None:
        yield first
    async with aclosing(rest):
        async for item in rest:
            yield item


def _frame(chunk: wire.CompletionChunk) -> bytes:
    return sse.frame(chunk.model_dump_json())
