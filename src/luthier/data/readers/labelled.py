"""A text and what it belongs to: ``text,label`` columns of a table, or ``{"text": ..., "label": ...}``. The label is the answer.

A list of labels is answered with commas between them, or as a JSON list where a label has one; a number as its digits.
A second text beside it (``pair``, ``sentence2``, ``hypothesis`` ...) makes it a row about two, e.g. whether one follows from the other.
A sound (``audio``: a WAV file) with its label or what it says (``transcription``, ``text``) is one, too.
A picture (``image``, ``file_name`` ...: a path, or the picture as a data address) may stand in the place of the text, or before it.
"""

from __future__ import annotations

from typing import Any

from luthier.core.example import MARK, Example, Message, Source
from luthier.data.json_rows import dumps
from luthier.data.media import picture, sound
from luthier.data.plain import PAIRED
from luthier.data.readers._findings import Findings
from luthier.data.table_shape import FIRST_NAMES, IMAGE_NAMES, LABEL_NAMES, PAIR_NAMES, SOUND_NAMES, TEXT_NAMES

KNOWN = frozenset({*TEXT_NAMES, *FIRST_NAMES, *PAIR_NAMES, *IMAGE_NAMES, *SOUND_NAMES, *LABEL_NAMES})
SHAPE = "text (or image) and label"


def _columns(row: dict[str, Any]) -> tuple[str, str, str, str]:
    by_name = {key.strip().lower(): key for key in row}
    pair = _first(by_name, PAIR_NAMES)
    text = _first(by_name, (*FIRST_NAMES, *TEXT_NAMES) if pair else TEXT_NAMES)
    label, seen = _first(by_name, LABEL_NAMES), _first(by_name, (*SOUND_NAMES, *IMAGE_NAMES))
    if text and not label and seen.strip().lower() in SOUND_NAMES:
        return "", "", text, seen  # the text beside a sound is what it says
    return text, pair, label, seen


def _first(by_name: dict[str, str], names: tuple[str, ...]) -> str:
    return next((by_name[name] for name in names if name in by_name), "")


def fits(row: dict[str, Any]) -> float:
    """Rows with a text and a label beside it."""
    text, _, label, image = _columns(row)
    if not (text or image) or not label or not isinstance(row[label], str | int | float | list) or isinstance(row[label], bool):
        return 0.0
    if row.keys() & {"messages", "answer", "output", "completion", "response", "code"}:
        return 0.0
    return 0.93


def example(row: dict[str, Any], source: Source, findings: Findings) -> Example | None:
    """The row as a chat: the text asks, the label answers."""
    text, second, label, image = _columns(row)
    asked = findings.text(row.get(text), text or "text", optional=bool(image))
    heard = image.strip().lower() in SOUND_NAMES or str(row.get(image, "")).lower().endswith(".wav")
    seen = (sound if heard else picture)(row[image], image, source.file, findings) if image else None
    pair = findings.text(row[second], second, optional=True) if second else ""
    said = row.get(label)
    several = [findings.text(one, label).strip() for one in said] if isinstance(said, list) else []
    answer = _joined(several) if isinstance(said, list) else findings.text(said, label or "label").strip()
    if findings.errors:
        return None
    question, name = f"{asked}{PAIRED}{pair}" if pair else asked, "" if isinstance(said, list | float) else answer
    user = Message("user", question) if seen is None else Message("user", MARK + question, media=(seen,))
    return Example(source, "chat", [user, Message("assistant", answer)], label=name, pair=pair)


def _joined(labels: list[str]) -> str:
    return dumps(labels).decode() if any("," in label for label in labels) or not labels else ", ".join(labels)
