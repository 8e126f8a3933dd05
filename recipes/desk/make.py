"""Write the bundled sample: the support desk of Fern & Kiln, an invented shop for handmade pottery.

    python recipes/desk/make.py [FOLDER]

`phrases.txt` holds what customers write, with gaps; training rows join a phrase with a greeting, an aside and a slip of the pen, from a
fixed seed. `heldout.txt` holds whole messages written by hand in other words; the held-out rows are those messages and nothing else.
The answer follows from what the message says: its label, and a sentence that repeats the product and the order number where given.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from answers import SYSTEM, answer

from luthier.core.files import write_text

HERE = Path(__file__).parent
SAMPLES = HERE.parent.parent / "src/luthier/data/samples"
ROWS = {"delivery": 100, "damaged": 85, "refund": 80, "product": 80, "exchange": 70, "change": 70, "payment": 65, "stock": 50}
"""Training rows by label: a desk hears more of late parcels than of empty shelves."""

GLAZES = [
    "moss green",
    "speckled",
    "sand",
    "blue",
    "white",
    "charcoal",
    "terracotta",
    "honey",
    "cream",
    "rose",
    "striped",
    "grey",
    "black",
    "mint",
]
PIECES = [
    "mug", "teapot", "planter", "salad bowl", "cake stand", "vase", "butter dish", "oil bottle", "soap dish", "pitcher", "ramen bowl",
    "egg cup", "candle holder", "serving plate", "sugar bowl", "espresso cup", "pie dish", "fruit bowl", "milk jug", "spoon rest",
]  # fmt: skip
GREETINGS = ["Hi, ", "Hello, ", "Dear team, ", "Hey, ", "Good evening, ", "Hi Fern & Kiln, ", "Hello again, ", "To whom it may concern, "]
ASIDES = [
    " Thanks!", " Thank you, Maria", " Please answer soon.", " Best regards, Tom", " Cheers", " I hope you can help.",
    " Many thanks in advance.", " Kind regards, Mrs Bell",
    " Sorry to bother you.", " I have written twice already.", " It is my first time buying from you.",
    " I am not amused.", " Love your shop by the way.", " Ben", " You can also phone me.",
]  # fmt: skip


@dataclass(slots=True, frozen=True)
class Letter:
    """A customer's message with what the answer needs to know; `product` and `order` are empty where the message names none."""

    label: str
    text: str
    product: str
    order: str


def sections(file: Path) -> Iterator[tuple[str, str]]:
    """Label and line, for every line under a ``== label`` heading; ``#`` begins a remark."""
    label = ""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            label = line.removeprefix("== ")
        elif line and not line.startswith("#"):
            yield label, line


def training_letters(seed: int) -> list[Letter]:
    """`ROWS` letters of each label, in mixed order; no two have the same words."""
    dice = random.Random(seed)
    phrases: dict[str, list[str]] = {}
    for label, phrase in sections(HERE / "phrases.txt"):
        phrases.setdefault(label, []).append(phrase)
    letters: dict[str, Letter] = {}
    for label, count in ROWS.items():
        wanted, tries = len(letters) + count, 0
        while len(letters) < wanted:
            letter = written(label, phrases[label][tries % len(phrases[label])], dice)
            letters.setdefault(letter.text.lower(), letter)
            tries += 1
    mixed = list(letters.values())
    dice.shuffle(mixed)
    return mixed


def written(label: str, phrase: str, dice: random.Random) -> Letter:
    """One letter from a phrase: gaps filled, greeting and aside sometimes added, written with more or less care."""
    product = f"{dice.choice(GLAZES)} {dice.choice(PIECES)}" if "{p}" in phrase else ""
    order = str(dice.randrange(30_000, 80_000)) if "{o}" in phrase else ""
    body = phrase.format(p=product, o=dice.choice(["", "", "#"]) + order)
    if order == "" and label not in ("product", "stock") and dice.random() < 0.25:
        order = str(dice.randrange(30_000, 80_000))
        body += dice.choice([f", order {order}", f". Order number {order}", f" ({order})"])
    return Letter(label, hand(body, product, dice), product, order)


def hand(body: str, keep: str, dice: random.Random) -> str:
    """How the customer writes: carefully, all in small letters, hastily with a slip, or loudly. The words in `keep` stay readable."""
    manner = dice.random()
    greeting = dice.choice(GREETINGS) if dice.random() < 0.4 else ""
    aside = dice.choice(ASIDES) if dice.random() < 0.4 else ""
    if manner < 0.2:
        return f"{greeting.lower()}{body.lower() if not keep else body}{aside.lower()}"
    if manner < 0.35:
        return slip(body, keep, dice) + aside
    end = "" if body.endswith(("?", "!", ".")) else dice.choice("!!?" if manner < 0.5 else "..?") if body[-1] != ")" else "."
    return f"{greeting}{body if greeting else body[0].upper() + body[1:]}{end}{aside}"


def slip(body: str, keep: str, dice: random.Random) -> str:
    """`body` with two letters of one longer word exchanged, as a hurried hand does; never inside `keep`."""
    words = body.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 4 and word.isalpha() and word not in keep]
    if not long:
        return body
    index = dice.choice(long)
    at = dice.randrange(1, len(words[index]) - 2)
    word = words[index]
    words[index] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def held_out_letters() -> list[Letter]:
    """The letters of `heldout.txt`: the product stands in brackets, which are taken off; an order number is five digits."""
    letters = []
    for label, line in sections(HERE / "heldout.txt"):
        product, order = re.search(r"\[(.+?)\]", line), re.search(r"\b\d{5}\b", line)
        text = line.replace("[", "").replace("]", "")
        letters.append(Letter(label, text, product[1] if product else "", order[0] if order else ""))
    random.Random(0).shuffle(letters)
    return letters


def chat(letter: Letter) -> str:
    """The letter as one line of OpenAI chat format."""
    turns = [("system", SYSTEM), ("user", letter.text), ("assistant", answer(letter.label, product=letter.product, order=letter.order))]
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}, ensure_ascii=False)


def main() -> None:
    """Write both files; the same bytes every time."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES
    for name, letters in {"desk.jsonl": training_letters(seed=7), "desk.heldout.jsonl": held_out_letters()}.items():
        write_text(folder / name, "".join(chat(letter) + "\n" for letter in letters))
        print(f"{folder / name}: {len(letters)} rows")


if __name__ == "__main__":
    main()
