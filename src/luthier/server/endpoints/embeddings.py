"""``/v1/embeddings``: texts as vectors, the mean of the model's last states until an encoder is loaded."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response

from luthier.server import metrics
from luthier.server.answering import completions, embeddings, flow
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.service import Ours
from luthier.server.wire import completions as wire
from luthier.server.wire._base import reply
from luthier.server.wire.error import errors

router = APIRouter(prefix="/v1/embeddings", tags=["Embeddings"], route_class=Route)


@router.post("", response_model=wire.Embeddings, responses=errors(404))
async def create(
    request: Request, body: wire.CreateEmbedding, caller: Annotated[Caller, allowed("embedding.create")], ours: Ours
) -> Response:
    """A vector of unit length for each input."""
    inputs = completions.prompts(body.input)
    vectors, read = await flow.while_there(
        request, to_thread.run_sync(lambda: ours.host.embed(body.model, inputs, caller.project_id, key=caller.actor.name))
    )
    caller.grant.spent(read)
    metrics.tokens(read, 0)
    return reply(embeddings.whole(body, vectors, read))
