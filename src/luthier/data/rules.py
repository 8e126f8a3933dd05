"""What every conversation must satisfy, whatever format it came in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from luthier.core.example import Example, Message, Source
from luthier.core.problem import Problem
from luthier.data.content import plain_roles
from luthier.data.json_rows import loads

Severity = Literal["error", "warning"]
_LEADING = ("system", "developer")


def broken(example: Example, *, learn: str = "answers") -> list[Problem]:
    """All rules that `example` breaks.

    Args:
        learn: ``DataSpec.learn``: when everything is learned, a row needs no answer.
    """
    if example.form == "chat" and not example.tools and (roles := plain_roles(example.messages)) and _orderly(roles, learn):
        return []
    return [
        Problem(example.source.file, example.source.row, field, code, message, remedy, severity)
        for field, code, message, remedy, severity in _BY_FORM[example.form](example, learn)
    ]


Finding = tuple[str, str, str, str, Severity]


def _text(example: Example, learn: str) -> Iterator[Finding]:
    if not example.text.strip():
        yield "text", "empty_answer", "The text is empty.", "Write the text, or delete the row.", "error"


def _completion(example: Example, learn: str) -> Iterator[Finding]:
    prompt, completion = example.messages
    if not completion.content.strip():
        yield (
            "completion",
            "empty_answer",
            "The completion is empty: nothing would be learned.",
            "Write the answer, or delete the row.",
            "error",
        )
    if not prompt.content.strip():
        yield "prompt", "empty_prompt", "The prompt is empty.", "Write the question; for plain text use rows with a field text.", "warning"


def _chat(example: Example, learn: str) -> Iterator[Finding]:
    messages = example.messages
    yield from _order(messages, "messages")
    yield from _answers(messages, "messages", learn)
    if example.tools or any(message.tool_calls or message.role == "tool" for message in messages):
        yield from _tools(messages, example.tools, "messages")


def _preference(example: Example, learn: str) -> Iterator[Finding]:
    yield from _order(example.messages, "prompt", prompt=True)
    for field, answer in (("chosen", example.chosen), ("rejected", example.rejected)):
        if not any(message.role == "assistant" for message in answer):
            yield field, "no_assistant", f"The {field} answer has no assistant turn.", "Write the answer.", "error"
        elif not any(message.content.strip() or message.tool_calls for message in answer):
            yield field, "empty_answer", f"The {field} answer is empty.", "Write the answer, or delete the row.", "error"
    if example.chosen == example.rejected:
        yield "rejected", "same_answers", "Both answers are the same: nothing would be learned.", "Delete the row.", "error"
    turns = [*example.messages, *example.chosen]
    if example.tools or any(message.tool_calls for message in turns):
        yield from _tools(turns, example.tools, "prompt")


@lru_cache(maxsize=4096)
def _orderly(roles: tuple[str, ...], learn: str) -> bool:
    """Whether plain messages in this order break no rule: whatever they say, for none of them is empty."""
    return not any(_chat(Example(Source("", 0), messages=[Message(role, "words") for role in roles]), learn))


def _judged(example: Example, learn: str) -> Iterator[Finding]:
    yield from _order(example.messages, "prompt", prompt=True)
    answer = [*example.chosen, *example.rejected]
    if not any(message.role == "assistant" for message in answer):
        yield "completion", "no_assistant", "There is no assistant turn to judge.", "Write the answer.", "error"
    elif not any(message.content.strip() or message.tool_calls for message in answer):
        yield "completion", "empty_answer", "The answer is empty.", "Write the answer, or delete the row.", "error"


_BY_FORM: dict[str, Any] = {"text": _text, "completion": _completion, "chat": _chat, "preference": _preference, "judged": _judged}


def _order(messages: Sequence[Message], field: str, *, prompt: bool = False) -> Iterator[Finding]:
    """System turns come first, then a user; answers of tools follow their calls; the last turn is an answer (in a prompt: a question)."""
    if not messages:
        yield (
            field,
            "no_assistant" if not prompt else "empty_prompt",
            "There are no messages.",
            "Write the conversation, or delete the row.",
            "error",
        )
        return
    before, begun = "", False
    for index, message in enumerate(messages):
        role = message.role
        if role in _LEADING and begun:
            yield f"{field}.{index}", "wrong_order", f"A {role} turn comes after the conversation has begun.", "Put it first.", "error"
        elif role == "assistant" and before in ("", *_LEADING) and not begun:
            yield f"{field}.{index}", "wrong_order", "The assistant speaks before any user.", "Begin with a user turn.", "error"
        elif role == "tool" and not (before == "tool" or (index and messages[index - 1].tool_calls)):
            yield (
                f"{field}.{index}",
                "wrong_order",
                "A tool answers without having been called.",
                "Put the call (tool_calls) before it.",
                "error",
            )
        elif role == before == "user":
            yield (
                f"{field}.{index}",
                "repeated_role",
                "Two user turns follow each other; some templates refuse that.",
                "Join them.",
                "warning",
            )
        before, begun = role, begun or role not in _LEADING
    if before != "assistant" and not prompt and any(message.role == "assistant" for message in messages):
        field = f"{field}.{len(messages) - 1}"
        yield (
            field,
            "ends_without_answer",
            f"The row ends with a {before} turn, which teaches nothing.",
            "Add the answer, or delete the turn.",
            "warning",
        )


def _answers(messages: Sequence[Message], field: str, learn: str) -> Iterator[Finding]:
    answers = [(index, message) for index, message in enumerate(messages) if message.role == "assistant"]
    if not answers and messages and learn != "everything":
        yield field, "no_assistant", "No assistant turn: there is nothing to learn.", "Add the answer that should be learned.", "error"
    for index, message in answers:
        if not message.content.strip() and not message.tool_calls:
            severity: Severity = "error" if message.weight else "warning"
            yield (
                f"{field}.{index}.content",
                "empty_answer",
                "The assistant says nothing.",
                "Write the answer, or delete the turn.",
                severity,
            )
    learned = answers[-1:] if learn == "last_answer" else answers
    if learned and learn != "everything" and not any(message.weight for _, message in learned):
        yield (
            field,
            "teaches_nothing",
            "Every answer has weight 0: the row teaches nothing.",
            "Give one answer weight 1, or delete the row.",
            "error",
        )


def _tools(messages: Sequence[Message], tools: Sequence[dict[str, Any]], field: str) -> Iterator[Finding]:
    names = {tool["function"]["name"] for tool in tools}
    called: set[str] = set()
    for index, message in enumerate(messages):
        for number, call in enumerate(message.tool_calls):
            place = f"{field}.{index}.tool_calls.{number}.function"
            name, arguments = call["function"]["name"], call["function"].get("arguments")
            if name not in names:
                known = f"its tools are {', '.join(sorted(names))}" if names else "the row has no tools"
                yield (
                    f"{place}.name",
                    "tool_call_without_tool",
                    f"{name!r} is called, but {known}.",
                    "Add the tool to the row's tools.",
                    "error",
                )
            if isinstance(arguments, str) and type(loads(arguments or "{}")) is not dict:
                yield (
                    f"{place}.arguments",
                    "bad_tool_arguments",
                    "The arguments are not a JSON object.",
                    'Write JSON, e.g. "{\\"city\\": \\"Oslo\\"}".',
                    "error",
                )
            called.add(call["id"])
        if message.role == "tool" and message.tool_call_id and message.tool_call_id not in called:
            place = f"{field}.{index}.tool_call_id"
            yield (
                place,
                "wrong_order",
                f"No call before has the id {message.tool_call_id!r}.",
                "Use the id of the call it answers.",
                "error",
            )
