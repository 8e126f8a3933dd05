"""Which parts go together. Each says what it gives and what it wants of the others, in the words below; no part names another.

    method lora      gives packed, merge, swap ...      wants linears (of the base)
    dtype nf4        gives nothing                      wants packed (of the method)
    method bitfit    gives packed, merge ...            wants biases (of the base): Llama has none

A wish that nobody grants is refused, together with the nearest change of one part that leaves no wish open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import SpecError

MEANS = {
    "linears": ("model", "has linears in its blocks"),
    "plain-linears": ("model", "has linears as torch has them, not packed, in its blocks"),
    "biases": ("model", "has biases"),
    "embedding": ("model", "embeds tokens"),
    "attention": ("model", "attends to keys and values"),
    "states": ("model", "has a state for every token"),
    "words": ("model", "reads words"),
    "next-token": ("model", "writes the next token"),
    "packed": ("method", "works on packed weights"),
    "merge": ("method", "folds into the weights"),
    "swap": ("method", "leaves a base that can be asked"),
    "reference": ("method", "leaves a base that can be asked before the first step"),
    "head": ("objective", "puts a head on the states"),
    "pairs": ("data", "compare two answers in every row"),
    "judged": ("data", "say of every answer whether it is good"),
    "tags": ("data", "have words and their tags in every row"),
}
"""What a wish means: the setting that could grant it, and how it would; a word that is not here speaks for itself."""


@dataclass(slots=True, frozen=True)
class Offer:
    """One chosen part.

    Attributes:
        setting: what it is called in a Spec, e.g. ``method``. name: its value there.
        gives, wants: words.
    """

    setting: str
    name: str
    gives: frozenset[str] = frozenset()
    wants: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.setting} {self.name}"


def lacking(chosen: Iterable[Offer]) -> list[tuple[Offer, str]]:
    """The wishes of parts that no other part grants, in the order of the parts."""
    parts = list(chosen)
    return [
        (part, word)
        for part in parts
        for word in sorted(part.wants)
        if not any(word in other.gives for other in parts if other is not part)
    ]


def nearest(chosen: Many[Offer], others: Mapping[str, Iterable[Offer]]) -> list[Offer]:
    """Changes of one part after which no wish is open, two of each setting: the usual part, then those that keep most of what the part
    could do and use most of what the others give.

    Args:
        others: what else each setting could be, the usual one first.
    """
    found: list[Offer] = []
    for place, part in enumerate(chosen):
        rest = [*chosen[:place], *chosen[place + 1 :]]
        given = {word for other in rest for word in other.gives}
        known = list(others.get(part.setting, ()))
        working = [other for other in known if other.name != part.name and not lacking([*rest, other])]

        def distance(other: Offer, part: Offer = part, given: set[str] = given, usual: Offer | None = known[0] if known else None) -> Any:
            return (other is not usual, len(part.gives - other.gives), -len(given & other.wants), -len(other.gives), other.name)

        found += sorted(working, key=distance)[:2]
    return found


def check(chosen: Many[Offer], others: Mapping[str, Iterable[Offer]]) -> None:
    """Refuse parts that do not go together.

    Raises:
        SpecError: names the wish, who has it, and the nearest combinations that work.
    """
    open_wishes = lacking(chosen)
    if not open_wishes:
        return
    part, word = open_wishes[0]
    setting, phrase = MEANS.get(word, ("part", f"gives {word}"))
    asked = " and ".join(str(other) for other in chosen if other.setting == setting) or "nothing here"
    wanted = f"{'an' if setting[0] in 'aeiou' else 'a'} {setting}" if setting != "data" else "data"
    working = " or ".join(f"{offer.setting}={offer.name}" for offer in nearest(chosen, others))
    raise SpecError(
        f"{part} wants {wanted} that {phrase}, and {asked} {'do' if setting == 'data' else 'does'} not.",
        remedy=f"The nearest that work: {working}." if working else "No single change helps: choose another base.",
        code="misfit",
    )
