"""Choose one of the given labels: topics of six imagined desks, mood, urgency, question or statement."""

from __future__ import annotations

import random

from desks import desks, letter
from words import Task, ask, sentence

SHARE = 5
GOOD = "I love it|what a great day|this works very well|the staff were friendly|I am so happy with it|it made my week|well done"
BAD = "I hate it|what a waste of money|this never works|nobody was friendly|the worst film ever|it ruined my week|so boring"
PLAIN = "it is made of wood|the shop opens at nine|the train has six cars|the bag is grey|it weighs two kilos|the meeting is in room four"
URGENT = "please come at once|there is smoke in the kitchen|water runs through the ceiling|I need it within the hour|we cannot work at all"
CALM = "whenever you have time|no hurry at all|next month is fine|just an idea for later|it can wait until summer"


def make(dice: random.Random) -> Task:
    """One of the label sets."""
    return dice.choice([topic, topic, topic, topic, mood, urgency, form])(dice)


def topic(dice: random.Random) -> Task:
    """The topic of a message to a desk, among some or all of its topics."""
    desk = dice.choice(desks())
    topics = dice.sample(list(desk.topics), dice.randrange(2, len(desk.topics) + 1))
    asked = letter(dice, desk, topics)
    return labelled(dice, topics, asked.topic, asked.text, about=f"You sort the mail of the {desk.name}.")


def labelled(dice: random.Random, labels: list[str], right: str, text: str, *, about: str = "") -> Task:
    """The label alone as the answer, asked for in one of several ways."""
    listed = dice.choice([", ".join(labels), " or ".join(labels), "\n".join(labels), "; ".join(labels)])
    order = dice.choice(
        [
            "Answer with one of these labels: {}",
            "Choose one label and write nothing else: {}",
            "Which of these fits best? {}",
            "Classify the message. Labels: {}",
            "Give the topic as one word out of: {}",
        ]
    ).format(listed)
    before = dice.choice(["", "", "", "Label: ", "Topic: "])
    if before:
        order += f"\nBegin with '{before.strip()}'"
    if dice.random() < 0.7:
        return Task(text, before + right, f"{about} {order}".strip())
    return Task(ask(dice, order, text), before + right)


def picked(dice: random.Random, sets: dict[str, str]) -> Task:
    """A remark of one of several kinds."""
    labels = dice.sample(list(sets), len(sets))
    right = dice.choice(labels)
    text = dice.choice(sets[right].split("|"))
    if dice.random() < 0.5:
        text = f"{sentence(dice)} {text[0].upper()}{text[1:]}."
    return labelled(dice, labels, right, text)


def mood(dice: random.Random) -> Task:
    """Is the writer pleased?"""
    names = dice.choice([("positive", "negative", "neutral"), ("good", "bad", "plain"), ("happy", "unhappy", "neither")])
    sets = dict(zip(names, (GOOD, BAD, PLAIN), strict=True))
    return picked(dice, sets if dice.random() < 0.5 else {name: sets[name] for name in names[:2]})


def urgency(dice: random.Random) -> Task:
    """Can it wait?"""
    names = dice.choice([("urgent", "not urgent"), ("now", "later"), ("high", "low")])
    return picked(dice, dict(zip(names, (URGENT, CALM), strict=True)))


def form(dice: random.Random) -> Task:
    """A question or a statement."""
    desk = dice.choice(desks())
    text = dice.choice([phrase for phrases in desk.topics.values() for phrase in phrases if "{" not in phrase])
    asks = text.split()[0] in {
        "is",
        "are",
        "do",
        "does",
        "can",
        "could",
        "when",
        "how",
        "which",
        "who",
        "what",
        "why",
        "may",
        "has",
        "will",
    }
    return labelled(dice, ["question", "statement"], "question" if asks else "statement", text)
