"""``{{ item.place.0.name }}`` and ``{{ sample.output_text }}`` in a grader's texts: looked up, and nothing is evaluated."""

from __future__ import annotations

import json
import re
from typing import Any

_FIELD = re.compile(r"\{\{\s*(item|sample)((?:\.[\w-]+)+)\s*\}\}")

ANSWER, EXPECTED = "{{ sample.output_text }}", "{{ item.answer }}"


def filled(text: str, item: dict[str, Any], said: str) -> str:
    """`text` with its fields filled in; one that is not there is empty."""
    return _FIELD.sub(lambda found: _told(_looked_up(found[1], found[2][1:].split("."), item, said)), text)


def _looked_up(whose: str, path: list[str], item: dict[str, Any], said: str) -> Any:
    value: Any = item
    if whose == "sample":
        if path[0] == "output_text":
            return said
        value, path = (_json(said), path[1:]) if path[0] == "output_json" else (None, [])
    for key in path:
        if isinstance(value, list) and key.isdigit():
            value = value[int(key)] if int(key) < len(value) else None
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value


def _json(said: str) -> Any:
    try:
        return json.loads(said)
    except ValueError:
        return None


def _told(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
