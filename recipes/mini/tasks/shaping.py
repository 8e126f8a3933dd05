"""Give a text another shape: case, list, JSON, copy, order, count. The answer is exact, so what is learned is to follow and to stop."""

from __future__ import annotations

import json
import random

from words import CITIES, KINDS, NAMES, NUMBERS, Task, ask, code, sentence, thing

SHARE = 5


def make(dice: random.Random) -> Task:
    """One of the shapes."""
    return dice.choice(
        [copy, copy_code, upper, lower, bullets, commas, as_json, count_words, count_items, first_word, surround, sort_words]
    )(dice)


def copy(dice: random.Random) -> Task:
    """Repeat a sentence."""
    text = sentence(dice)
    return Task(
        ask(dice, dice.choice(["Repeat this:", "Copy the sentence.", "Say exactly this:", "Write the same text again."]), text), text
    )


def copy_code(dice: random.Random) -> Task:
    """Repeat a number or code out of a sentence, the skill behind order numbers."""
    number, what = code(dice), dice.choice(["ticket", "invoice", "booking", "case", "member card", "room key", "locker", "claim"])
    text = dice.choice(
        [
            f"My {what} number is {number}.",
            f"It is about {what} {number}, thanks.",
            f"{what.capitalize()} {number} is not right.",
            f"See {number}.",
        ]
    )
    system = dice.choice(["", "Answer with the number only.", "Confirm the number in one short sentence."])
    if system.startswith("Confirm"):
        return Task(text, f"Thank you, I have noted {what} {number}.", system)
    return Task(text if system else ask(dice, "Which number is named?", text), number, system)


def upper(dice: random.Random) -> Task:
    """Capital letters."""
    text = dice.choice([sentence(dice), thing(dice), dice.choice(NAMES)])
    return Task(ask(dice, dice.choice(["Write in capital letters:", "Make this uppercase.", "Turn into upper case:"]), text), text.upper())


def lower(dice: random.Random) -> Task:
    """Small letters."""
    text = dice.choice([sentence(dice), thing(dice)]).upper()
    return Task(ask(dice, dice.choice(["Write in small letters:", "Make this lowercase.", "Turn into lower case:"]), text), text.lower())


def some(dice: random.Random) -> list[str]:
    """A few words of one kind."""
    return dice.sample(dice.choice([*KINDS.values(), CITIES, NAMES]), dice.randrange(2, 6))


def bullets(dice: random.Random) -> Task:
    """A list, one item a line."""
    items = some(dice)
    order = dice.choice(["Write as a list with dashes:", "Make a bulleted list.", "Put each item on its own line with a dash."])
    return Task(ask(dice, order, ", ".join(items)), "\n".join(f"- {item}" for item in items))


def commas(dice: random.Random) -> Task:
    """A list in one line."""
    items = some(dice)
    return Task(ask(dice, "Write in one line, separated by commas.", "\n".join(items)), ", ".join(items))


def as_json(dice: random.Random) -> Task:
    """Two or three facts as JSON."""
    facts = {"name": dice.choice(NAMES), "city": dice.choice(CITIES), "age": dice.randrange(6, 90)}
    text = dice.choice(
        [
            f"{facts['name']} is {facts['age']} and lives in {facts['city']}.",
            f"{facts['name']} from {facts['city']} turned {facts['age']}.",
        ]
    )
    keys = dice.sample(list(facts), dice.randrange(1, 4))
    order = dice.choice(["Answer as JSON with the keys", "Return a JSON object with", "Give JSON. Keys:"])
    return Task(text, json.dumps({key: facts[key] for key in keys}), f"{order} {', '.join(keys)}.")


def count_words(dice: random.Random) -> Task:
    """How many words."""
    words = dice.sample(NAMES + CITIES, dice.randrange(1, 8))
    return Task(ask(dice, "How many words are there?", " ".join(words)), str(len(words)))


def count_items(dice: random.Random) -> Task:
    """How many things of a list, as a word or a figure."""
    items = some(dice)
    spelled = dice.random() < 0.5
    order = "How many things are in the list? Answer with a word." if spelled else "How many things are in the list? Answer with a figure."
    return Task(ask(dice, order, ", ".join(items)), NUMBERS[len(items)] if spelled else str(len(items)))


def first_word(dice: random.Random) -> Task:
    """The first or last word or item."""
    items, last = some(dice), dice.random() < 0.5
    return Task(ask(dice, f"Which one is {'last' if last else 'first'}?", ", ".join(items)), items[-1 if last else 0])


def surround(dice: random.Random) -> Task:
    """A fixed beginning or end that the system turn asks for."""
    text, word = sentence(dice), dice.choice(["Answer:", "Note:", "Result:", "OK.", "Sure."])
    end = dice.choice(["Done.", "Thank you.", "Goodbye.", "End."])
    if dice.random() < 0.5:
        return Task(text, f"{word} {text}", f"Repeat what the user says and begin with '{word}'")
    return Task(text, f"{text} {end}", f"Repeat what the user says and finish with '{end}'")


def sort_words(dice: random.Random) -> Task:
    """Alphabetical order."""
    items = some(dice)
    return Task(ask(dice, dice.choice(["Sort these by letter:", "Put in alphabetical order."]), ", ".join(items)), ", ".join(sorted(items)))
