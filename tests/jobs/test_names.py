"""How files of users are called where a run finds them."""

import pytest

from luthier.jobs.names import of_file


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("tickets.jsonl", "tickets.jsonl"),
        ("My Tickets (1).CSV", "my-tickets-1.csv"),
        ("rows.json.gz", "rows.json.gz"),
        ("../../etc/passwd", "etc-passwd.jsonl"),
        ("script.py", "script-py.jsonl"),
        (".jsonl", "data.jsonl"),
        ("x" * 99, "x" * 40 + ".jsonl"),
    ],
)
def test_a_name_keeps_letters_and_its_kind_and_nothing_else(given: str, named: str) -> None:
    assert of_file(given) == named
