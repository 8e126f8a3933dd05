"""Small facts everybody knows: kinds of things, opposites, days and months, plurals, sums."""

from __future__ import annotations

import random

from words import DAYS, KINDS, MONTHS, Task

SHARE = 3
OPPOSITES = """big small|hot cold|fast slow|light dark|early late|open closed|full empty|rich poor|old young|long short|wet dry|hard soft
high low|near far|loud quiet|clean dirty|strong weak|happy sad|thick thin|sweet sour|cheap expensive|easy difficult""".replace("\n", "|")
PLURALS = (
    "mouse mice|child children|foot feet|tooth teeth|leaf leaves|box boxes|city cities|knife knives|man men|cup cups|dish dishes|key keys"
)


def make(dice: random.Random) -> Task:
    """One fact."""
    return dice.choice([kind, odd, opposite, plural, after, add])(dice)


def kind(dice: random.Random) -> Task:
    """What kind of thing it is, with the kinds to choose from."""
    name = dice.choice(list(KINDS))
    word = dice.choice(KINDS[name])
    others = dice.sample([other for other in KINDS if other != name], dice.randrange(1, 4))
    choices = dice.sample([name, *others], len(others) + 1)
    listed = ", ".join(choices)
    if dice.random() < 0.5:
        return Task(word, name, f"Sort the word into one of these groups: {listed}. Answer with the group only.")
    return Task(f"What is {word}? Choose one: {listed}.", name)


def odd(dice: random.Random) -> Task:
    """The word that does not belong."""
    first, second = dice.sample(list(KINDS), 2)
    stranger = dice.choice(KINDS[second])
    words = dice.sample([*dice.sample(KINDS[first], 3), stranger], 4)
    return Task(f"Which word does not belong: {', '.join(words)}?", stranger)


def pair(dice: random.Random, pairs: str) -> list[str]:
    """Two words that belong together."""
    return dice.choice(pairs.split("|")).split()


def opposite(dice: random.Random) -> Task:
    """The opposite."""
    words = dice.sample(pair(dice, OPPOSITES), 2)
    return Task(dice.choice(["What is the opposite of {}?", "Opposite of {}:", "Give the opposite: {}"]).format(words[0]), words[1])


def plural(dice: random.Random) -> Task:
    """More than one."""
    one, many = pair(dice, PLURALS)
    return Task(dice.choice(["What is the plural of {}?", "One {}, two ...?"]).format(one), many)


def after(dice: random.Random) -> Task:
    """What comes next in the week or the year."""
    names = dice.choice([DAYS, MONTHS])
    at, step = dice.randrange(len(names)), dice.choice([-1, 1])
    word = "day" if names is DAYS else "month"
    return Task(f"Which {word} comes {'after' if step == 1 else 'before'} {names[at]}?", names[(at + step) % len(names)])


def add(dice: random.Random) -> Task:
    """Sums and differences up to twenty."""
    left, right = dice.randrange(0, 11), dice.randrange(0, 11)
    if dice.random() < 0.5:
        return Task(f"What is {left} plus {right}?", str(left + right))
    return Task(f"What is {left + right} minus {right}?", str(left))
