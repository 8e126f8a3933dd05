"""Words of a row that the model would never see, because its chat template has no place for them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from luthier.core.errors import DataError
from luthier.core.example import MARK, Example, Message
from luthier.data.turns import Turn


def refuse_unrendered(example: Example, messages: Sequence[Message], turns: Sequence[Turn]) -> None:
    """Look for every word of the row in what is read and learned.

    A learned turn is looked for in its own answer, everything else in the first prompt that follows it; what follows the last learned
    answer takes no part. White space is not compared: templates trim.

    Raises:
        DataError: a field does not appear; `where` names row and field, `code` is ``unrendered``.
    """
    for field in missing(messages, turns, example.tools):
        raise DataError(
            f"{field} does not appear in what the model reads: its chat template leaves it out.",
            where=f"{example.source} field {field}",
            remedy="Remove it from the row, move it to a place the template shows, or choose a model whose template knows it.",
            code="unrendered",
        )


def missing(messages: Sequence[Message], turns: Sequence[Turn], tools: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Dotted names of the fields that do not appear."""
    if not turns:
        return
    for place, tool in enumerate(tools):
        name = str(tool.get("function", tool).get("name", ""))
        if name and name not in turns[0].prompt:
            yield f"tools.{place}"
    learned = {turn.index: turn for turn in turns}
    for index, message in enumerate(messages):
        if index in learned:
            text, thinking = learned[index].answer, message.thinking
        else:
            text, thinking = next((turn.prompt for turn in turns if turn.index > index), ""), ""
        if text and (message.content not in text or thinking or message.tool_calls):
            yield from (f"messages.{index}.{name}" for name in _missing(message, text, thinking, learned=index in learned))


def _missing(message: Message, text: str, thinking: str, *, learned: bool) -> Iterator[str]:
    content = message.content
    if message.role == "assistant" and not learned:
        content = content.split("</think>")[-1]  # thinking of earlier turns is dropped on purpose by the templates that know it
    if not all(_shown(part, text) for part in content.split(MARK) if part.strip()):
        yield "content"
    if thinking and not _shown(thinking, text):
        yield "thinking"
    for call in message.tool_calls:
        if not _call_shown(call.get("function") or {}, text):
            yield "tool_calls"
            return


def _call_shown(function: dict[str, Any], text: str) -> bool:
    if str(function.get("name", "")) not in text:
        return False
    arguments = function.get("arguments", {})
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return _shown(str(arguments), text)
    values = arguments.values() if isinstance(arguments, dict) else [arguments]
    return all(_shown(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), text) for value in values)


def _shown(words: str, text: str) -> bool:
    if words in text:
        return True
    squeezed, quoted = "".join(text.split()), json.dumps(words, ensure_ascii=False)[1:-1]
    return (
        "".join(words.split()) in squeezed or "".join(quoted.split()) in squeezed or "".join(json.dumps(quoted)[1:-1].split()) in squeezed
    )
