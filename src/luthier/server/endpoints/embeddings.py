"""``/v1/embeddings``: texts as vectors, the mean of the model's last states until an encoder is loaded."""

from __future__ import annotations

import base64
from typing import Annotated

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response

from luthier.server import metrics
from luthier.server.answering import completions, flow
from luthier.server.body import Route
from luthier.server.caller import Caller, allowed
from luthier.server.errors import invalid
from luthier.server.service import Ours
from luthier.server.wire import completions as wire
from luthier.server.wire._base import ignored_by, reply
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
    if body.dimensions is not None and body.dimensions != len(vectors[0]):
        message = f"Invalid 'dimensions': vectors of this model have {len(vectors[0])} numbers, and cannot be shortened."
        raise invalid(message, param="dimensions", code="invalid_value")
    data = [wire.Embedding(index=index, embedding=_coded(vector, body.encoding_format)) for index, vector in enumerate(vectors)]
    usage = wire.EmbeddingUsage(prompt_tokens=read, total_tokens=read)
    return reply(wire.Embeddings(data=data, model=body.model, usage=usage, luthier=ignored_by(body)))


def _coded(vector: list[float], encoding: str | None) -> list[float] | str:
    """Numbers, or little-endian float32 in base64, which is what the client asks for by itself."""
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode() if encoding == "base64" else vector
