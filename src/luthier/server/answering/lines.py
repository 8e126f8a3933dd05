"""Lines of batches, answered as their endpoints would."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from luthier.core.errors import LuthierError
from luthier.inference.serving.ask import Answering
from luthier.jobs.batch_lines import Reply, Request
from luthier.jobs.serving import Host
from luthier.server import metrics
from luthier.server.answering import chats, completions, embeddings
from luthier.server.errors import WireError, from_luthier, from_validation
from luthier.server.wire._base import Answer
from luthier.server.wire.chat import CreateChat
from luthier.server.wire.completions import CreateCompletion, CreateEmbedding
from luthier.store import ids

B = TypeVar("B", bound=BaseModel)


class Lines:
    """Answers one line after the other, for `jobs.batches`.

    Args:
        host: who answers.
        seconds: longest time for a line.
    """

    def __init__(self, host: Host, seconds: float) -> None:
        self.host, self.seconds = host, seconds

    def __call__(self, request: Request) -> Reply:
        """Status and body, of errors too; those of trouble that passes (503) are asked again by whoever calls."""
        try:
            answer = self._endpoints[request.endpoint](self, request)
        except WireError as error:
            return Reply(error.status_code, error.content)
        except LuthierError as error:
            if error.code == "closing":
                raise
            found = from_luthier(error)
            return Reply(found.status_code, found.content)
        return Reply(200, answer.model_dump(mode="json", by_alias=True))

    def _chat(self, request: Request) -> Answer:
        body = _checked(CreateChat, request.body)
        answering = self.host.ask(chats.asked(body, key=request.key, seconds=self.seconds), request.project_id)
        deltas = answering.whole()
        _count(answering)
        return chats.whole(body, answering, deltas, ids.new("chatcmpl-"), int(time.time()))

    def _completion(self, request: Request) -> Answer:
        body = _checked(CreateCompletion, request.body)
        asked = completions.asked(body, key=request.key, seconds=self.seconds)
        answerings = [self.host.ask(one, request.project_id) for one in asked]
        found = [answering.whole() for answering in answerings]
        _count(*answerings)
        return completions.whole(body, answerings, found, ids.new("cmpl-"), int(time.time()))

    def _embedding(self, request: Request) -> Answer:
        body = _checked(CreateEmbedding, request.body)
        vectors, read = self.host.embed(body.model, completions.prompts(body.input), request.project_id, key=request.key)
        metrics.tokens(read, 0)
        return embeddings.whole(body, vectors, read)

    _endpoints: dict[str, Callable[[Lines, Request], Answer]] = {  # noqa: RUF012
        "/v1/chat/completions": _chat,
        "/v1/completions": _completion,
        "/v1/embeddings": _embedding,
    }


def _checked(kind: type[B], body: dict[str, Any]) -> B:
    """The line as the endpoint would read it. Nothing is streamed into a file, and only what was asked now is stored."""
    try:
        return kind.model_validate({key: value for key, value in body.items() if key not in ("stream", "stream_options", "store")})
    except ValidationError as error:
        raise from_validation(RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in error.errors()])) from error


def _count(*answerings: Answering) -> None:
    for answering in answerings:
        metrics.tokens(answering.usage.prompt, answering.usage.completion)
