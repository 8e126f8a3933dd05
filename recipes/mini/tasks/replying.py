"""Answer a letter politely: one sentence, two lines with the topic first, or JSON. The code the writer names is repeated."""

from __future__ import annotations

import json
import random

from desks import Desk, Letter, desks, letter
from words import NAMES, Task

SHARE = 4


def make(dice: random.Random) -> Task:
    """A letter and a way to answer it."""
    desk = dice.choice(desks())
    asked = letter(dice, desk, list(desk.topics))
    return dice.choice([sentence, two_lines, two_lines, as_json, signed])(dice, desk, asked)


def reply(asked: Letter) -> str:
    """One polite sentence, with the code where there is one."""
    return asked.reply + (f", your number is {asked.code}." if asked.code else ".")


def sentence(dice: random.Random, desk: Desk, asked: Letter) -> Task:
    """A reply of one sentence."""
    order = dice.choice(["Answer in one friendly sentence.", "Reply politely and shortly.", "Write one sentence to the customer."])
    return Task(asked.text, reply(asked), f"You work at the {desk.name}. {order} Repeat a number if one is given.")


def two_lines(dice: random.Random, desk: Desk, asked: Letter) -> Task:
    """The topic, then the reply."""
    topics = dice.sample(list(desk.topics), len(desk.topics))
    layout = dice.choice(["First write the topic, then on a new line one sentence.", "Line 1: topic. Line 2: a friendly sentence."])
    return Task(asked.text, f"{asked.topic}\n{reply(asked)}", f"You answer for the {desk.name}. {layout} Topics: {', '.join(topics)}.")


def as_json(dice: random.Random, desk: Desk, asked: Letter) -> Task:
    """Topic and number as JSON."""
    return Task(
        asked.text,
        json.dumps({"topic": asked.topic, "number": asked.code}),
        f"Read mail for the {desk.name}. Answer as JSON with topic ({', '.join(desk.topics)}) and number (empty if none).",
    )


def signed(dice: random.Random, desk: Desk, asked: Letter) -> Task:
    """A reply that ends with a name the system turn gives."""
    name = dice.choice(NAMES)
    return Task(
        asked.text,
        f"{reply(asked)}\n{name}",
        f"Your name is {name} and you work at the {desk.name}. Answer shortly and sign with your name.",
    )
