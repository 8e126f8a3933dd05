"""Chats."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.server.wire._base import Answer, Asked, Flag, Int, Listed, Luthier, Metadata, Text, maybe
from luthier.server.wire._sampling import Sampling, Usage
from luthier.server.wire.conversation import AllowedTools, AskedMessage, Function, NamedFunction, NamedTool, ResponseFormat, Tool

Finish = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class CreateChat(Sampling):
    """A conversation to be answered."""

    without_effect: ClassVar[frozenset[str]] = frozenset(
        [
            "user",
            "safety_identifier",
            "prompt_cache_key",
            "prompt_cache_retention",
            "prompt_cache_options",
            "service_tier",
            "modalities",
            "verbosity",
            "reasoning_effort",
            "web_search_options",
            "audio",
            "moderation",
            "prediction",
        ]
    )

    messages: Annotated[list[AskedMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    max_tokens: Annotated[Int, Field(ge=1)] | None = None
    logprobs: Flag | None = None
    top_logprobs: Annotated[Int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedTools | None = None
    parallel_tool_calls: Flag | None = None
    functions: Annotated[list[Function], Field(min_length=1, max_length=128)] | None = None
    function_call: Literal["none", "auto"] | NamedFunction | None = None
    store: Flag | None = None
    metadata: Metadata | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None
    prompt_cache_options: dict[str, Any] | None = None
    service_tier: Text | None = None
    modalities: list[Literal["text"]] | None = None
    verbosity: Text | None = None
    reasoning_effort: Text | None = None
    web_search_options: dict[str, Any] | None = None
    audio: dict[str, Any] | None = None
    moderation: dict[str, Any] | None = None
    prediction: dict[str, Any] | None = None


class UpdateChat(Asked):
    """New metadata of a stored completion."""

    metadata: Metadata | None


class FunctionCall(Answer):
    """name, and its arguments as JSON text."""

    name: str
    arguments: str


class ToolCall(Answer):
    """A call the model asks for."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Answer):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = maybe()
    function_call: FunctionCall | None = maybe()


class TopLogprob(Answer):
    """A token that might have come instead."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token, its natural log-probability, and the likeliest at its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Answer):
    """Of every token of an answer."""

    content: list[TokenLogprob] | None
    refusal: list[TokenLogprob] | None = None


class ChatChoice(Answer):
    """One of the n answers."""

    index: int
    message: ChatMessage
    finish_reason: Finish
    logprobs: ChatLogprobs | None


class Chat(Answer):
    """``chatcmpl-...``"""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str | None = maybe()
    metadata: dict[str, str] | None = maybe()
    luthier: Luthier | None = maybe()


class CallChunk(Answer):
    """A call in a stream; here each comes whole."""

    index: int
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatDelta(Answer):
    """What is new."""

    role: Literal["assistant"] | None = maybe()
    content: str | None = maybe()
    refusal: str | None = maybe()
    tool_calls: list[CallChunk] | None = maybe()
    function_call: FunctionCall | None = maybe()


class ChunkChoice(Answer):
    """What is new in one of the n answers."""

    index: int
    delta: ChatDelta
    finish_reason: Finish | None
    logprobs: ChatLogprobs | None = maybe()


class ChatChunk(Answer):
    """One frame of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = maybe()
    system_fingerprint: str | None = maybe()
    luthier: Luthier | None = maybe()


class ChatDeleted(Answer):
    """It is stored no more."""

    id: str
    object: Literal["chat.completion.deleted"] = "chat.completion.deleted"
    deleted: bool


class StoredMessage(Answer):
    """A message that was asked."""

    id: str
    role: str
    content: str | None
    content_parts: list[dict[str, Any]] | None = None
    refusal: str | None = None
    name: str | None = maybe()
    tool_calls: list[dict[str, Any]] | None = maybe()
    tool_call_id: str | None = maybe()


Chats = Listed[Chat]
StoredMessages = Listed[StoredMessage]
