"""Words that the instruction tasks are made of, and the shape of a task."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_LINES = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").splitlines()
_LISTS = dict(line.split(": ") for line in _LINES if line and not line.startswith("#"))
NAMES, SURNAMES, CITIES, PLACES, VERBS = (_LISTS[name].split() for name in ("names", "surnames", "cities", "places", "verbs"))
ANIMALS, FRUITS, TOOLS, COLOURS = (_LISTS[name].split() for name in ("animals", "fruits", "tools", "colours"))
FURNITURE, CLOTHES, FOODS = (_LISTS[name].split() for name in ("furniture", "clothes", "foods"))
DAYS, MONTHS, NUMBERS = (_LISTS[name].split() for name in ("days", "months", "numbers"))
KINDS = {"animal": ANIMALS, "fruit": FRUITS, "tool": TOOLS, "colour": COLOURS, "furniture": FURNITURE, "clothing": CLOTHES, "food": FOODS}


@dataclass(slots=True)
class Task:
    """One short conversation. An empty `system` means there is no system turn; `calls` are tool calls made instead of an answer."""

    user: str
    answer: str
    system: str = ""
    tools: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)


def thing(dice: random.Random) -> str:
    """A coloured thing, e.g. ``green lamp``."""
    return f"{dice.choice(COLOURS)} {dice.choice(FURNITURE + CLOTHES + TOOLS + FRUITS)}"


def sentence(dice: random.Random) -> str:
    """A plain sentence about somebody."""
    who, verb, place = dice.choice(NAMES), dice.choice(VERBS), dice.choice(PLACES)
    when = dice.choice([f"on {dice.choice(DAYS)}", f"in {dice.choice(MONTHS)}", "last week", "this morning", "yesterday", "a year ago"])
    return dice.choice(
        [
            f"{who} {verb} a {thing(dice)} at the {place} {when}.",
            f"{when[0].upper() + when[1:]} {who} went to the {place} with {dice.choice(NAMES)}.",
            f"The {thing(dice)} in the {place} belongs to {who}.",
            f"{who} lives in {dice.choice(CITIES)} and works at the {place}.",
            f"There are {dice.randrange(2, 90)} {dice.choice(ANIMALS)} pictures in the {place} of {dice.choice(CITIES)}.",
        ]
    )


def code(dice: random.Random) -> str:
    """A number or code such as people copy from a letter."""
    return dice.choice([str(dice.randrange(1000, 999999)), f"{dice.choice('ABCDEFGHKLMNPRSTUVWXZ')}{dice.randrange(100, 99999)}"])


def ask(dice: random.Random, order: str, text: str) -> str:
    """An instruction and the text it is about, laid out in one of several ways."""
    return dice.choice([f"{order}\n{text}", f"{order}\n\n{text}", f"{order} {text}", f"{text}\n\n{order}", f"{order}\nText: {text}"])
