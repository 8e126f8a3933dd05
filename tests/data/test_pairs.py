"""A preference row for an objective that does not compare."""

import pytest

from luthier.core.example import Example, Message, Source
from luthier.data.pairs import chosen_only

PROMPT = [Message("user", "Hello"), Message("assistant", "Yes?"), Message("user", "When do you open?")]
PAIR = Example(
    Source("pairs.jsonl", 3), "preference", PROMPT, chosen=[Message("assistant", "At nine.")], rejected=[Message("assistant", "No.")]
)


@pytest.mark.parametrize(("learn", "weights"), [("answers", [0.0, 0.0, 0.0, 1.0]), ("everything", [1.0, 1.0, 1.0, 1.0])])
def test_only_the_chosen_answer_is_left_to_learn(learn: str, weights: list[float]) -> None:
    row = chosen_only(PAIR, learn=learn)
    assert (row.form, row.source, row.chosen, row.rejected) == ("chat", PAIR.source, [], [])
    assert [m.content for m in row.messages] == ["Hello", "Yes?", "When do you open?", "At nine."]
    assert [m.weight for m in row.messages] == weights
    assert PAIR.form == "preference" and PAIR.messages[1].weight == 1.0, "the row given is not touched"


def test_other_rows_stay_as_they_are() -> None:
    row = Example(Source("rows.jsonl", 1), messages=PROMPT)
    assert chosen_only(row, learn="answers") is row
