"""Answer a question whose answer stands in the text: names, places, days, amounts; yes or no; and say so when it is not there."""

from __future__ import annotations

import random
from collections.abc import Callable

from words import CITIES, DAYS, MONTHS, NAMES, PLACES, SURNAMES, VERBS, Task, ask, code, sentence, thing

SHARE = 5


def make(dice: random.Random) -> Task:
    """One of the questions."""
    return dice.choice([event, event, note, yes_no, larger, missing])(dice)


def event(dice: random.Random) -> Task:
    """Who did what, where and when: one of them is asked for, as a word or as a sentence."""
    who, what, where, when = dice.choice(NAMES), thing(dice), dice.choice(PLACES), dice.choice(DAYS)
    verb = dice.choice(VERBS)
    text = f"{who} {verb} a {what} at the {where} on {when}."
    question, short, long = dice.choice(
        [
            (f"Who {verb} the {what.split()[1]}?", who, f"{who} {verb} it."),
            (f"What was {verb} at the {where}?" if verb not in ("drew",) else "What is it about?", what, f"It was a {what}."),
            ("Where did it happen?", where, f"It happened at the {where}."),
            ("On which day was it?", when, f"It was on {when}."),
        ]
    )
    filler = [sentence(dice) for _ in range(dice.randrange(0, 3))]
    place = dice.randrange(len(filler) + 1)
    passage = " ".join([*filler[:place], text, *filler[place:]])
    if place or len(filler) > place:
        question = question.replace("it happen", f"{who} do this").replace("was it", f"did {who} do this")
    system = dice.choice(["", "Answer with as few words as possible.", "Answer in a full sentence."])
    return Task(ask(dice, question, passage), long if "full" in system else short, system)


def note(dice: random.Random) -> Task:
    """Pick one field out of a short note."""
    fields: dict[str, Callable[[], str]] = {
        "name": lambda: f"{dice.choice(NAMES)} {dice.choice(SURNAMES)}",
        "city": lambda: dice.choice(CITIES),
        "date": lambda: f"{dice.randrange(1, 29)} {dice.choice(MONTHS)}",
        "price": lambda: f"{dice.randrange(2, 400)} euros",
        "number": lambda: code(dice),
        "item": lambda: thing(dice),
    }
    values = {key: make_value() for key, make_value in fields.items()}
    text = dice.choice(
        [
            "{name} from {city} paid {price} for a {item} on {date}, receipt {number}.",
            "On {date} we sent a {item} to {name} in {city}. It costs {price}. Reference {number}.",
            "Dear team, my name is {name}. I booked a {item} for {date} in {city} under {number} and paid {price}.",
            "{number}: {item}, {price}, for {name}, {city}, {date}",
        ]
    ).format(**values)
    key = dice.choice(list(values))
    order = dice.choice(["Find the {}.", "What is the {}?", "Extract the {} from the text.", "Give me only the {}."]).format(key)
    if dice.random() < 0.3:
        return Task(text, values[key], order)
    return Task(ask(dice, order, text), values[key])


def yes_no(dice: random.Random) -> Task:
    """Is it mentioned?"""
    text, truth = " ".join(sentence(dice) for _ in range(dice.randrange(1, 3))), dice.random() < 0.5
    inside = [name for name in NAMES + CITIES if name in text]
    if not inside:
        return yes_no(dice)
    outside = [name for name in NAMES + CITIES if name not in text]
    name = dice.choice(inside if truth else outside)
    return Task(ask(dice, f"Is {name} mentioned? Answer yes or no.", text), "yes" if truth else "no")


def larger(dice: random.Random) -> Task:
    """Compare two small numbers."""
    left, right = dice.sample(range(1, 100), 2)
    if dice.random() < 0.5:
        return Task(f"Which number is larger, {left} or {right}?", str(max(left, right)))
    return Task(f"Is {left} larger than {right}?", "yes" if left > right else "no")


def missing(dice: random.Random) -> Task:
    """The text does not say."""
    text = f"{dice.choice(NAMES)} {dice.choice(VERBS)} a {thing(dice)}."
    question = dice.choice(["What did it cost?", "On which day was it?", "In which city was it?"])
    return Task(ask(dice, question, text), "The text does not say.", "If the text does not say, answer: The text does not say.")
