"""Two answers to one prompt, one better: OpenAI's ``input / preferred_output / non_preferred_output``, or ``chosen / rejected``.

``chosen`` and ``rejected`` are texts (with a prompt beside them, or as whole dialogues with ``Human:`` and ``Assistant:``), ShareGPT turns
(with ``conversations`` beside them), or lists of messages (with ``prompt``, or beginning alike). ``images`` beside them
stand where the prompt says ``<image>``.
"""

from __future__ import annotations

import re
from typing import Any

from luthier.core.example import Example, Message, Source
from luthier.data.readers._findings import Findings
from luthier.data.readers._messages import messages, tools, with_media
from luthier.data.readers._turns import turns

KNOWN = frozenset(
    {
        "input",
        "preferred_output",
        "non_preferred_output",
        "chosen",
        "rejected",
        "prompt",
        "instruction",
        "question",
        "system",
        "conversations",
        "tools",
        "images",
        "audios",
    }
)
SHAPE = "chosen and rejected (or preferred_output and non_preferred_output)"
_SPEAKER = re.compile(r"\n\n(Human|Assistant):[ ]?")


def fits(row: dict[str, Any]) -> float:
    """Rows with two answers."""
    if "preferred_output" in row and "non_preferred_output" in row:
        return 0.98
    return 0.97 if "chosen" in row and "rejected" in row else 0.0


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a pair."""
    read = Example(source, "preference")
    if "preferred_output" in row or "non_preferred_output" in row:
        _openai(row, read, findings)
    elif isinstance(row.get("chosen"), str) and isinstance(row.get("rejected"), str):
        _texts(row, read, findings)
    else:
        _turns(row, read, findings)
    if isinstance(row.get("system"), str) and row["system"].strip():
        read.messages.insert(0, Message("system", row["system"]))
    with_media(read.messages, row, findings)
    return None if findings.errors else read


def _openai(row: dict[str, Any], read: Example, findings: Findings) -> None:
    asked = row.get("input")
    if type(asked) is not dict:
        findings.wrong_type("input", "an object with messages", asked)
        asked = {"messages": []}
    read.messages = messages(asked.get("messages"), "input.messages", findings)
    read.tools = tools(asked.get("tools"), "input.tools", findings)
    read.chosen = messages(row.get("preferred_output"), "preferred_output", findings)
    read.rejected = messages(row.get("non_preferred_output"), "non_preferred_output", findings)


def _texts(row: dict[str, Any], read: Example, findings: Findings) -> None:
    name = next((name for name in ("prompt", "instruction", "question") if name in row), "")
    if not name:
        _dialogues(row, read, findings)
        return
    more = findings.text(row.get("input"), "input", optional=True)
    prompt = row[name]
    read.messages = (
        messages(prompt, name, findings)
        if type(prompt) is list
        else [Message("user", findings.text(prompt, name) + (f"\n\n{more}" if more else ""))]
    )
    read.chosen, read.rejected = [Message("assistant", row["chosen"])], [Message("assistant", row["rejected"])]


def _dialogues(row: dict[str, Any], read: Example, findings: Findings) -> None:
    chosen, rejected = _dialogue(row["chosen"]), _dialogue(row["rejected"])
    if not chosen or not rejected:
        findings.add(
            "",
            "no_prompt",
            "The answers come without a prompt.",
            "Add a field prompt, or write whole dialogues with Human: and Assistant:.",
        )
        return
    _split_alike(chosen, rejected, read)


def _dialogue(text: str) -> list[Message]:
    """``\\n\\nHuman: ...\\n\\nAssistant: ...`` as messages; nothing when the text is not of that kind."""
    start, *pieces = _SPEAKER.split("\n\n" + text.lstrip("\n"))
    if start.strip() or not pieces:
        return []
    return [Message("user" if who == "Human" else "assistant", words.strip()) for who, words in zip(pieces[::2], pieces[1::2], strict=True)]


def _turns(row: dict[str, Any], read: Example, findings: Findings) -> None:
    chosen, rejected = turns(row.get("chosen"), "chosen", findings), turns(row.get("rejected"), "rejected", findings)
    if "conversations" in row:
        read.messages = turns(row["conversations"], "conversations", findings)
    elif "prompt" in row:
        prompt = row["prompt"]
        read.messages = messages(prompt, "prompt", findings) if type(prompt) is list else [Message("user", findings.text(prompt, "prompt"))]
    else:
        _split_alike(chosen, rejected, read)
        return
    read.chosen, read.rejected = chosen, rejected


def _split_alike(chosen: list[Message], rejected: list[Message], read: Example) -> None:
    """The turns both begin with are the prompt; what is left are the answers (at least the last turn of each)."""
    alike = 0
    while alike < min(len(chosen), len(rejected)) - 1 and chosen[alike] == rejected[alike]:
        alike += 1
    read.messages, read.chosen, read.rejected = chosen[:alike], chosen[alike:], rejected[alike:]
