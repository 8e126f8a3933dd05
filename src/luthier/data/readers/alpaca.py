"""Alpaca's rows: ``{"instruction": "Translate.", "input": "Hello", "output": "Hallo"}``; ``input``, ``system``, ``history`` may be missing.

The question is the instruction, then an empty line, then the input. Self-instruct's rows (``instances`` with one input and output) are the
same thing.
"""

from __future__ import annotations

from typing import Any

from luthier.core.example import Example, Message, Source
from luthier.data.readers._findings import Findings

KNOWN = frozenset({"instruction", "input", "output", "system", "history", "instances"})
SHAPE = "instruction and output"


def fits(row: dict[str, Any]) -> float:
    """Rows with an instruction and an output, or with instances that have one."""
    if "instruction" not in row or "chosen" in row or "rejected" in row:
        return 0.0
    return 0.96 if "output" in row or type(row.get("instances")) is list else 0.0


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a chat."""
    place, pair = _pair(row, findings)
    instruction = findings.text(row.get("instruction"), "instruction")
    words = findings.text(pair.get("input"), f"{place}input", optional=True)
    output = findings.text(pair.get("output"), f"{place}output")
    system = findings.text(row.get("system"), "system", optional=True)
    question = "\n\n".join(part for part in (instruction, words) if part.strip())
    read = [Message("system", system)] if system.strip() else []
    read += [*_history(row.get("history"), findings), Message("user", question), Message("assistant", output)]
    return None if findings.errors else Example(source, "chat", read)


def _pair(row: dict[str, Any], findings: Findings) -> tuple[str, dict[str, Any]]:
    if "instances" not in row:
        return "", row
    instances = row["instances"]
    if type(instances) is not list or len(instances) != 1 or type(instances[0]) is not dict:
        findings.add("instances", "several_instances", "A row needs exactly one instance.", "Write one row per instance.")
        return "instances.0.", {"output": ""}
    return "instances.0.", instances[0]


def _history(value: Any, findings: Findings) -> list[Message]:
    read: list[Message] = []
    if value is not None and type(value) is not list:
        findings.wrong_type("history", "a list of earlier rounds", value)
        return read
    for index, turn in enumerate(value or []):
        if type(turn) is not list or len(turn) != 2:
            findings.wrong_type(f"history.{index}", "a question and its answer", turn)
            continue
        read.append(Message("user", findings.text(turn[0], f"history.{index}.0")))
        read.append(Message("assistant", findings.text(turn[1], f"history.{index}.1")))
    return read
