"""``/v1/chat/completions``: answer a conversation, whole or as a stream."""

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
from luthier.inference.serving.ask import Answering, Delta
from luthier.server import metrics, sse
from luthier.server.answering import chats, flow
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.errors import from_luthier
from luthier.server.service import Ours, Service
from luthier.server.stored import store
from luthier.server.wire import chat as wire
from luthier.server.wire._base import ignored_by, reply
from luthier.server.wire.error import errors
from luthier.store import ids

router = APIRouter(prefix="/v1/chat/completions", tags=["Chat"], route_class=Route)

STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}}}}


@dataclass
class Talk:
    """One request on its way: what was asked, by whom, and what the answer is called."""

    ours: Service
    caller: Caller
    body: wire.CreateChat
    answering: Answering
    id: str
    created: int

    @property
    def facts(self) -> dict[str, Any]:
        """What every frame says."""
        return chats.facts(self.body, self.answering, self.id, self.created)


@router.post("", response_model=wire.Chat, responses=STREAM | errors(404))
async def create(request: Request, body: wire.CreateChat, caller: Annotated[Caller, allowed("chat.create")], ours: Ours) -> Response:
    """Answer a conversation. With ``stream`` as server-sent events; with ``store`` it is kept and can be listed."""
    asked = chats.asked(body, key=caller.actor.name, seconds=ours.settings.answer_seconds)
    answering = await to_thread.run_sync(lambda: ours.host.ask(asked, caller.project_id))
    talk = Talk(ours, caller, body, answering, ids.new("chatcmpl-"), int(time.time()))
    if body.stream:
        return await _stream(talk)
    (deltas,) = await flow.while_there(request, flow.whole([answering]))
    return reply(await _ended(talk, deltas))


async def _ended(talk: Talk, deltas: list[Delta]) -> wire.Chat:
    """The whole answer; counted, and stored where that was asked."""
    used = talk.answering.usage
    talk.caller.grant.spent(used.prompt + used.completion)
    metrics.tokens(used.prompt, used.completion)
    answer = chats.whole(talk.body, talk.answering, deltas, talk.id, talk.created)
    if talk.body.store:
        await to_thread.run_sync(store, talk.ours.database, talk.caller, talk.body, answer)
    return answer


async def _stream(talk: Talk) -> Response:
    """The first delta is waited for, so that what cannot be answered is told with a status, not in a stream."""
    begun = time.monotonic()
    deltas = flow.heard([talk.answering])
    first = await anext(deltas, None)
    metrics.first_token(time.monotonic() - begun)
    return StreamingResponse(_frames(talk, first, deltas), media_type=sse.MEDIA_TYPE, headers=sse.HEADERS)


async def _frames(talk: Talk, first: tuple[int, Delta] | None, rest: flow.Deltas) -> AsyncGenerator[bytes, None]:
    answers: dict[int, Delta] = {}
    luthier = ignored_by(talk.body)
    try:
        async with aclosing(_from(first, rest)) as deltas:
            async for delta in deltas:
                new = chats.chunk_choice(delta, **chats.shape(talk.body), first=delta.index not in answers)
                _add(answers, delta)
                yield _frame(wire.ChatChunk(**talk.facts, choices=[new], luthier=luthier))
                luthier = None
        ended = await _ended(talk, [answers[index] for index in sorted(answers)])
        if talk.body.wants_usage:
            yield _frame(wire.ChatChunk(**talk.facts, choices=[], usage=ended.usage))
    except LuthierError as error:
        yield sse.frame(json.dumps(from_luthier(error).content))
        return
    yield sse.DONE


async def _from(first: tuple[int, Delta] | None, rest: flow.Deltas) -> AsyncGenerator[Delta, None]:
    if first is not None:
        yield first[1]
    async with aclosing(rest):
        async for _, delta in rest:
            yield delta


def _add(answers: dict[int, Delta], delta: Delta) -> None:
    mine = answers.setdefault(delta.index, Delta(delta.index))
    mine.text += delta.text
    mine.tokens += delta.tokens
    mine.tool_calls += delta.tool_calls
    mine.finish = delta.finish or mine.finish


def _frame(chunk: wire.ChatChunk) -> bytes:
    return sse.frame(chunk.model_dump_json())
