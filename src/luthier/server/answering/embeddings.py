"""Embeddings: vectors as the wire shows them."""

from __future__ import annotations

import base64

import numpy as np

from luthier.server.errors import invalid
from luthier.server.wire import completions as wire
from luthier.server.wire._base import ignored_by


def whole(body: wire.CreateEmbedding, vectors: list[list[float]], read: int) -> wire.Embeddings:
    """The whole answer. read: tokens of all inputs.

    Raises:
        WireError: other `dimensions` are wanted than the model has. What was not trained to be shortened means nothing shortened.
    """
    if body.dimensions is not None and body.dimensions != len(vectors[0]):
        message = f"Invalid 'dimensions': vectors of this model have {len(vectors[0])} numbers, and cannot be shortened."
        raise invalid(message, param="dimensions", code="invalid_value")
    data = [wire.Embedding(index=index, embedding=_coded(vector, body.encoding_format)) for index, vector in enumerate(vectors)]
    usage = wire.EmbeddingUsage(prompt_tokens=read, total_tokens=read)
    return wire.Embeddings(data=data, model=body.model, usage=usage, luthier=ignored_by(body))


def _coded(vector: list[float], encoding: str | None) -> list[float] | str:
    """Numbers, or little-endian float32 in base64, which is what the client asks for by itself."""
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode() if encoding == "base64" else vector
