"""Chats: from the wire to the engine and back."""

from __future__ import annotations

from typing import Any

from luthier.core.example import Message
from luthier.inference.serving.ask import Answering, Asked, Delta, TokenInfo
from luthier.inference.serving.ask import ToolCall as Call
from luthier.inference.serving.ask import Usage as Used
from luthier.server.errors import WireError, invalid, printable
from luthier.server.wire import chat as wire
from luthier.server.wire import conversation
from luthier.server.wire._base import ignored_by
from luthier.server.wire._sampling import PromptDetails, Usage

TEXT = ("text", "input_text", "output_text")


def asked(body: wire.CreateChat, *, key: str, seconds: float) -> Asked:
    """What the engine is asked.

    Raises:
        WireError: fields that do not fit together; ranges were checked by the type.
    """
    if body.top_logprobs is not None and not body.logprobs:
        raise invalid("Invalid 'top_logprobs': it needs logprobs to be true.", param="top_logprobs", code="invalid_value")
    return Asked(
        **body.drawn(),
        messages=[message(said, f"messages.{index}") for index, said in enumerate(body.messages)],
        tools=[*_tools(body), *(_tool(one) for one in body.functions or ())],
        tool_choice=_choice(body),
        parallel_tool_calls=body.parallel_tool_calls is not False and not body.functions,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        format=_format(body.response_format),
        key=key,
        seconds=seconds,
    )


def message(said: conversation.AskedMessage, place: str) -> Message:
    """A turn of the conversation.

    Raises:
        WireError: it has no words, or parts that are not text.
    """
    role = "tool" if said.role == "function" else said.role
    calls = [call.model_dump(mode="json") for call in said.tool_calls or ()]
    if said.function_call:
        calls.append({"id": "call_0", "type": "function", "function": said.function_call.model_dump(mode="json")})
    content = _content(said.content, f"{place}.content") or said.refusal or ""
    if said.content is None and not calls and said.refusal is None:
        raise _missing(f"{place}.content")
    if said.role == "tool" and not said.tool_call_id:
        raise invalid(
            f"Missing required parameter: '{place}.tool_call_id'.", param=f"{place}.tool_call_id", code="missing_required_parameter"
        )
    call_id = said.tool_call_id or ("call_0" if said.role == "function" else "")
    return Message(role, content, tool_calls=calls, tool_call_id=call_id, name=said.name or "")


def _missing(place: str) -> WireError:
    return invalid(f"Missing required parameter: '{place}'.", param=place, code="missing_required_parameter")


def _content(said: str | list[conversation.ContentPart] | None, place: str) -> str:
    if not isinstance(said, list):
        return said or ""
    for index, part in enumerate(said):
        if part.type not in (*TEXT, "refusal") or (part.text is None and part.refusal is None):
            raise invalid(
                f"Invalid '{place}.{index}': a part of type {printable(part.type)!r}, and the service reads text only. "
                "Leave it out; models that see or hear are asked with `luthier evaluate` and `luthier predict`.",
                param=f"{place}.{index}",
                code="unsupported_media",
            )
    return "".join(part.text or part.refusal or "" for part in said)


def _tools(body: wire.CreateChat) -> list[dict[str, Any]]:
    """The tools that may be called.

    Raises:
        WireError: one is allowed that is not there.
    """
    tools, choice = body.tools or [], body.tool_choice
    if isinstance(choice, conversation.AllowedTools):
        allowed = {one.function.name for one in choice.allowed_tools.tools}
        if unknown := allowed - {tool.function.name for tool in tools}:
            raise invalid(f"Invalid 'tool_choice': there is no tool '{min(unknown)}'.", param="tool_choice", code="invalid_value")
        tools = [tool for tool in tools if tool.function.name in allowed]
    return [tool.model_dump(mode="json", exclude_none=True) for tool in tools]


def _tool(function: conversation.Function) -> dict[str, Any]:
    return {"type": "function", "function": function.model_dump(mode="json", exclude_none=True)}


def _choice(body: wire.CreateChat) -> str | dict[str, Any]:
    if body.functions:
        call = body.function_call
        return _named(call.name) if isinstance(call, conversation.NamedFunction) else call or "auto"
    choice = body.tool_choice
    if isinstance(choice, conversation.AllowedTools):
        return choice.allowed_tools.mode
    return _named(choice.function.name) if isinstance(choice, conversation.NamedTool) else choice or "auto"


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _format(said: conversation.ResponseFormat | None) -> str | dict[str, Any] | None:
    if said is None or said.type == "text":
        return None
    if said.type == "json_object":
        return "json_object"
    if said.json_schema is None:
        raise _missing("response_format.json_schema")
    return said.json_schema.schema_ or {"type": "object"}


def facts(body: wire.CreateChat, answering: Answering, id: str, created: int) -> dict[str, Any]:
    """What every answer and every frame says."""
    return {"id": id, "created": created, "model": body.model, "system_fingerprint": answering.fingerprint or None}


def shape(body: wire.CreateChat) -> dict[str, bool]:
    """How choices are shown."""
    return {"logprobs": bool(body.logprobs), "old": bool(body.functions)}


def whole(body: wire.CreateChat, answering: Answering, deltas: list[Delta], id: str, created: int) -> wire.Chat:
    """The whole answer, of one delta for each choice."""
    return wire.Chat(
        **facts(body, answering, id, created),
        choices=[choice(delta, **shape(body)) for delta in deltas],
        usage=usage(answering.usage),
        metadata=body.metadata if body.store else None,
        luthier=ignored_by(body),
    )


def usage(used: Used) -> Usage:
    """Tokens of a request."""
    details = PromptDetails(cached_tokens=used.cached)
    total = used.prompt + used.completion
    return Usage(prompt_tokens=used.prompt, completion_tokens=used.completion, total_tokens=total, prompt_tokens_details=details)


def choice(delta: Delta, *, logprobs: bool, old: bool) -> wire.ChatChoice:
    """A whole answer. `old`: the request had functions, so a call is a ``function_call``."""
    calls = delta.tool_calls
    said = wire.ChatMessage(
        content=delta.text if delta.text or not calls else None,
        tool_calls=[_call(call) for call in calls] if calls and not old else None,
        function_call=_function(calls[0]) if calls and old else None,
    )
    return wire.ChatChoice(
        index=delta.index, message=said, finish_reason=_finish(delta, old) or "stop", logprobs=_logprobs(delta, logprobs)
    )


def chunk_choice(delta: Delta, *, logprobs: bool, old: bool, first: bool) -> wire.ChunkChoice:
    """What is new in an answer. `first`: it begins, so it says who speaks."""
    calls = delta.tool_calls
    new = wire.ChatDelta(
        role="assistant" if first else None,
        content=delta.text if delta.text or (first and not calls) else None,
        tool_calls=[wire.CallChunk(index=call.index, id=call.id, function=_function(call)) for call in calls]
        if calls and not old
        else None,
        function_call=_function(calls[0]) if calls and old else None,
    )
    said = _logprobs(delta, logprobs) if delta.tokens else None
    return wire.ChunkChoice(index=delta.index, delta=new, finish_reason=_finish(delta, old), logprobs=said)


def _call(call: Call) -> wire.ToolCall:
    return wire.ToolCall(id=call.id, function=_function(call))


def _function(call: Call) -> wire.FunctionCall:
    return wire.FunctionCall(name=call.name, arguments=call.arguments)


def _finish(delta: Delta, old: bool) -> Any:
    return "function_call" if old and delta.finish == "tool_calls" else delta.finish


def _logprobs(delta: Delta, wanted: bool) -> wire.ChatLogprobs | None:
    return wire.ChatLogprobs(content=[_token(info) for info in delta.tokens]) if wanted else None


def _token(info: TokenInfo) -> wire.TokenLogprob:
    top = [wire.TopLogprob(token=_text(raw), logprob=logprob, bytes=list(raw)) for _, raw, logprob in info.top]
    return wire.TokenLogprob(token=info.text, logprob=info.logprob or 0.0, bytes=list(info.bytes), top_logprobs=top)


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
