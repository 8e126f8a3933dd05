"""Completions of plain text, and embeddings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.server.wire._base import Answer, Asked, Flag, Int, Luthier, Text, maybe
from luthier.server.wire._sampling import ModelName, Sampling, Usage

Token = Annotated[Int, Field(ge=0, lt=2**31)]
Tokens = Annotated[list[Token], Field(min_length=1, max_length=1 << 20)]
Many = 2048
"""Most inputs of one request."""


class CreateCompletion(Sampling):
    """Text to be continued. The wire's default of 16 tokens is kept."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"user"})

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=Many)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=Many)]
    )
    best_of: Annotated[Int, Field(ge=0, le=20)] | None = None
    echo: Flag | None = None
    logprobs: Annotated[Int, Field(ge=0, le=5)] | None = None
    max_tokens: Annotated[Int, Field(ge=0)] | None = None
    suffix: Text | None = None


class CompletionLogprobs(Answer):
    """Four lists of equal length; text_offset counts characters from the beginning of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One of the answers."""

    index: int
    text: str
    finish_reason: Literal["stop", "length", "content_filter"]
    logprobs: CompletionLogprobs | None


class Completion(Answer):
    """``cmpl-...``"""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str | None = maybe()
    luthier: Luthier | None = maybe()


class CompletionChunkChoice(Answer):
    """What is new in one of the answers."""

    index: int
    text: str
    finish_reason: Literal["stop", "length", "content_filter"] | None
    logprobs: CompletionLogprobs | None


class CompletionChunk(Answer):
    """One frame of a stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: Usage | None = maybe()
    system_fingerprint: str | None = maybe()
    luthier: Luthier | None = maybe()


class CreateEmbedding(Asked):
    """Texts, or their tokens, to be turned into vectors."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"user"})

    model: ModelName
    input: (
        Text
        | Annotated[list[Text], Field(min_length=1, max_length=Many)]
        | Tokens
        | Annotated[list[Tokens], Field(min_length=1, max_length=Many)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[Int, Field(ge=1)] | None = None
    user: Text | None = None


class Embedding(Answer):
    """A vector; base64 is little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(Answer):
    """One for each input, in its order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
    luthier: Luthier | None = maybe()
