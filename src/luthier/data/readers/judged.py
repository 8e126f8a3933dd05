"""One answer, judged good or bad: ``{"prompt": ..., "completion": ..., "label": true}``, or a conversation with ``label`` (or
``kto_tag``) beside it, whose last answer is judged. ``images`` beside it stand where the prompt says ``<image>``.
"""

from __future__ import annotations

from typing import Any

from luthier.core.example import Example, Message, Source
from luthier.data.readers._findings import Findings
from luthier.data.readers._messages import messages, tools, with_media
from luthier.data.readers._turns import turns

TALKS = ("messages", "conversations")
PROMPTS = ("prompt", "question", "instruction", "query")
ANSWERS = ("completion", "response", "answer", "output")
KNOWN = frozenset({*TALKS, *PROMPTS, *ANSWERS, "input", "system", "tools", "label", "kto_tag", "images", "audios"})
SHAPE = "one answer and a label of true or false"


def _verdict(row: dict[str, Any]) -> Any:
    return row.get("kto_tag", row.get("label"))


def fits(row: dict[str, Any]) -> float:
    """Rows with true or false beside one answer."""
    talks = any(type(row.get(name)) is list for name in TALKS)
    pair = any(name in row for name in PROMPTS) and any(name in row for name in ANSWERS)
    return 0.97 if isinstance(_verdict(row), bool) and (talks or pair) else 0.0


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a prompt and one side of a pair."""
    good = _verdict(row)
    if not isinstance(good, bool):
        findings.wrong_type("kto_tag" if "kto_tag" in row else "label", "true or false", good)
    read = Example(source, "judged", label="good" if good else "bad", tools=tools(row.get("tools"), "tools", findings))
    answer = _talk(row, read, findings) if any(name in row for name in TALKS) else _pair(row, read, findings)
    with_media(read.messages, row, findings)
    if good:
        read.chosen = answer
    else:
        read.rejected = answer
    return None if findings.errors else read


def _talk(row: dict[str, Any], read: Example, findings: Findings) -> list[Message]:
    name = next(name for name in TALKS if name in row)
    said = turns(row[name], name, findings)
    last = max((n for n, message in enumerate(said) if message.role == "assistant"), default=len(said))
    read.messages = said[:last]
    return said[last:]


def _pair(row: dict[str, Any], read: Example, findings: Findings) -> list[Message]:
    prompt, answer = (next((name for name in names if name in row), names[0]) for names in (PROMPTS, ANSWERS))
    more = findings.text(row.get("input"), "input", optional=True)
    read.messages = _side(row, prompt, "user", findings)
    if more and read.messages:
        read.messages[-1].content += f"\n\n{more}"
    system = findings.text(row.get("system"), "system", optional=True)
    if system.strip():
        read.messages.insert(0, Message("system", system))
    return _side(row, answer, "assistant", findings)


def _side(row: dict[str, Any], name: str, role: str, findings: Findings) -> list[Message]:
    value = row.get(name)
    return messages(value, name, findings) if type(value) is list else [Message(role, findings.text(value, name))]
