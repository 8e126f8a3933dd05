"""Held-out rows that are nearly learned are found, whichever file they are in."""

from luthier.core.example import Example, Message, Source
from luthier.data.overlap import near_learned

WORDS = "the parcel with the blue bowl and two green cups has not arrived at our house in the old town although it was sent"


def row(file: str, number: int, question: str) -> Example:
    return Example(Source(file, number), messages=[Message("user", question), Message("assistant", "I will look.")])


def test_near_and_equal_rows_are_named_and_others_are_not() -> None:
    learned = [row("a", 1, WORDS), row("a", 2, WORDS[::-1]), row("a", 3, "When do you open on Sundays, and may I bring my dog with me?")]
    held = [
        row("b", 1, f"{WORDS} off"),
        row("b", 2, learned[2].messages[0].content),
        row("b", 3, "Something else entirely, in other words."),
    ]
    found = near_learned(learned, held)
    assert found == [(Source("b", 1), Source("a", 1)), (Source("b", 2), Source("a", 3))]
    assert near_learned(learned, held, limit=2) == found[:1], "rows beyond the limit are not looked at"
    assert near_learned([], held) == []


def test_held_out_rows_that_are_alike_among_themselves_do_not_count() -> None:
    assert near_learned([row("a", 1, WORDS[::-1])], [row("b", 1, WORDS), row("b", 2, WORDS)]) == []
