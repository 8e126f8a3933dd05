"""What a chat is asked with: turns so far, tools, the form of the answer."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from luthier.server.wire._base import Asked, Flag, Text

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class ContentPart(Asked):
    """A part of a message; models here read text."""

    type: str
    text: Text | None = None
    refusal: Text | None = None


class CalledFunction(Asked):
    """name, and its arguments as JSON text."""

    name: FunctionName
    arguments: Text


class AskedCall(Asked):
    """A call the assistant made before."""

    id: Annotated[str, StringConstraints(max_length=256)]
    type: Literal["function"]
    function: CalledFunction


class AskedMessage(Asked):
    """One turn so far."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"audio"})

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: Text | list[ContentPart] | None = None
    name: Annotated[str, StringConstraints(max_length=256)] | None = None
    refusal: Text | None = None
    tool_calls: Annotated[list[AskedCall], Field(max_length=128)] | None = None
    tool_call_id: Annotated[str, StringConstraints(max_length=256)] | None = None
    function_call: CalledFunction | None = None
    audio: dict[str, Any] | None = None


class Function(Asked):
    """What may be called. parameters: a JSON schema."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"strict"})
    name: FunctionName
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: Flag | None = None


class Tool(Asked):
    """A tool; only functions here."""

    type: Literal["function"]
    function: Function


class NamedFunction(Asked):
    """A function by its name."""

    name: FunctionName


class NamedTool(Asked):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class Allowed(Asked):
    """Some of the tools, and whether one must be called."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=128)]


class AllowedTools(Asked):
    """Only some of the tools may be called."""

    type: Literal["allowed_tools"]
    allowed_tools: Allowed


class JsonSchema(Asked):
    """The schema an answer follows."""

    without_effect: ClassVar[frozenset[str]] = frozenset({"strict", "description"})
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Text | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: Flag | None = None


class ResponseFormat(Asked):
    """text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
