"""The imagined desks of `domains.txt`: messages by topic, with gaps filled."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path

from words import DAYS, NAMES, code


@dataclass(slots=True, frozen=True)
class Desk:
    """A desk: what it is, and by topic what people write and what it answers."""

    name: str
    topics: dict[str, tuple[str, ...]]
    replies: dict[str, str]


@dataclass(slots=True, frozen=True)
class Letter:
    """A message with its topic and the desk's usual reply; `code` is the code it names, or empty."""

    topic: str
    text: str
    reply: str
    code: str


@functools.cache
def desks() -> tuple[Desk, ...]:
    """All desks of the file."""
    found: list[Desk] = []
    for line in Path(__file__).with_name("domains.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            found.append(Desk(line.partition(" / ")[2], {}, {}))
        elif line and not line.startswith("#"):
            head, _, phrases = line.partition(": ")
            topic, _, reply = head.partition(" = ")
            found[-1].topics[topic], found[-1].replies[topic] = tuple(phrases.split(" | ")), reply
    return tuple(found)


def letter(dice: random.Random, desk: Desk, topics: list[str]) -> Letter:
    """A message to `desk` about one of `topics`, written with more or less care."""
    topic = dice.choice(topics)
    number = code(dice)
    phrase = dice.choice(desk.topics[topic])
    text = phrase.format(c=number, d=dice.choice(DAYS), n=dice.choice(NAMES))
    text = text[0].upper() + text[1:] + dice.choice([".", ".", "!", "?", ""]) if dice.random() < 0.7 else text
    text = dice.choice(["", "", "", "Hello, ", "Hi! ", "Good day. ", "Excuse me, "]) + text
    text += dice.choice(["", "", "", " Thanks.", " Regards, " + dice.choice(NAMES), " Please help.", " I have waited long enough."])
    return Letter(topic, text, desk.replies[topic], number if "{c}" in phrase else "")
