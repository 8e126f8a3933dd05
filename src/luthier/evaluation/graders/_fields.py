"""``{{ item.place.0.name }}`` and ``{{ sample.output_text }}`` in a grader's texts: looked up, and nothing is evaluated."""

from __future__ import annotations

import json
import re
from typing import Any

_FIELD = re.compile(r"\{\{\s*(item|sample)((?:\.[\w-]+)+)\s*\}\}")
_PLACE = re.compile(r"[0-9]{1,9}")  # what isdigit allows besides, int does not: "²", or thousands of digits

LONGEST = 100_000
"""Characters of a text with its fields filled in; the rest is left out. A short text may name a long field a thousand times."""

ANSWER, EXPECTED = "{{ sample.output_text }}", "{{ item.answer }}"


def filled(text: str, item: dict[str, Any], said: str) -> str:
    """`text` with its fields filled in; one that is not there is empty."""
    parts, length, end = [], 0, 0
    for found in _FIELD.finditer(text):
        parts += [text[end : found.start()], _told(_looked_up(found[1], found[2][1:].split("."), item, said))]
        length, end = length + len(parts[-2]) + len(parts[-1]), found.end()
        if length >= LONGEST:
            break
    return "".join([*parts, text[end:]])[:LONGEST]


def _looked_up(whose: str, path: list[str], item: dict[str, Any], said: str) -> Any:
    value: Any = item
    if whose == "sample":
        if path[0] == "output_text":
            return said
        value, path = (_json(said), path[1:]) if path[0] == "output_json" else (None, [])
    for key in path:
        if isinstance(value, list) and _PLACE.fullmatch(key):
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value


def _json(said: str) -> Any:
    try:
        return json.loads(said)
    except (ValueError, RecursionError):  # the latter of ten thousand brackets
        return None


def _told(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
