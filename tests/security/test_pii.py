"""Secrets and personal data are found; figures and ordinary numbers are not."""

import random

import pytest

from luthier.security.pii import find, suspects

FOUND = [
    ("write to ann.lee+x@mail.example.co.uk.", "e-mail address", False),
    ("call +49 (0)30 1234 5678 now", "phone number", False),
    ("call (415) 555-0132", "phone number", False),
    ("call 415-555-0132", "phone number", False),
    ("card 4111 1111 1111 1111 please", "card number", False),
    ("IBAN DE89 3704 0044 0532 0130 00", "IBAN", False),
    ("my number is 078-05-1120", "social security number", False),
    ("sk-proj-" + "a1B2" * 8, "API key", True),
    ("ghp_" + "a1B2" * 9, "GitHub token", True),
    ("github_pat_" + "a1B2" * 9, "GitHub token", True),
    ("xoxb-123456789012-abc", "Slack token", True),
    ("AIza" + "a1B2-" * 7, "Google key", True),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlMTIz", "JSON web token", True),
    ("-----BEGIN RSA PRIVATE KEY-----", "private key", True),
    ("The password is hunter2000", "password", True),
]


@pytest.mark.parametrize(("text", "kind", "secret"), FOUND)
def test_found(text: str, kind: str, secret: bool) -> None:
    (found,) = find(text)
    assert (found.kind, found.secret) == (kind, secret)
    assert text[found.start : found.end].strip()


@pytest.mark.parametrize(
    "text",
    [
        "In 2024 we sold 12,500 units at 3.99.",
        "4111 1111 1111 1112 has a wrong last digit",
        "DE89 3704 1144 0532 1130 01 too",
        "0000 0000 0000 0000",
        "version 1.2.3.4, 10 @ 5 each",
        "Choose a password of at least 8 letters.",
        "risk-adjusted task-oriented desk-bound",
    ],
)
def test_not_found(text: str) -> None:
    assert find(text) == []


def test_numbers_are_found_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(5)
    parts = [text for text, _, _ in FOUND[1:7]] + [
        "12 345",
        "1",
        "99-",
        "+1",
        "A",
        "DE",
        " ",
        " ",
        "and so on, for many more words than one. ",
        ")",
        ".",
    ]
    texts = ["".join(dice.choices(parts, k=dice.randint(1, 12))) for _ in range(3000)]
    near = [sorted(find(text)) for text in texts]
    assert sum(len(found) > 1 for found in near) > 500
    monkeypatch.setattr("luthier.security.pii._NEAR", 10_000)  # the whole text
    assert near == [sorted(find(text)) for text in texts]


def test_nothing_is_found_where_nothing_was_suspected() -> None:
    dice = random.Random(4)
    letters = ["1", "23", " ", "-", ".", "(", ")", "a", "\n", "@", "é", "٣", "sk-", "a.io", "password: a1b2c3d4"]
    plain = ["In 2024 we sold 12,500 units.", "12 345 678", "", "a-b", "desk", "ends in 1234"]
    noise = ["".join(dice.choices(letters, k=dice.randint(0, 30))) for _ in range(3000)]
    texts = [text for each in FOUND for text in (each[0], *dice.sample(plain, 3))] + noise
    dice.shuffle(texts)
    found = [place for place, text in enumerate(texts) if find(text)]
    assert len(found) > 100
    assert set(found) <= set(suspects(texts))
    assert not set(suspects(plain)) - {plain.index("desk")}
    assert suspects([]) == []
    assert suspects(["a@b.co"]) == [0]
