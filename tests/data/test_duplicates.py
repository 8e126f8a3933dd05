"""Exact duplicates against a dictionary, signatures against datasketch."""

import random
from pathlib import Path

from datasketch import MinHash

from luthier.core.example import Example
from luthier.data.content import words
from luthier.data.duplicates import SHINGLE_BYTES, Digests, Signatures, signatures
from luthier.data.read import read


def shingles(text: bytes) -> set[bytes]:
    return {text[at : at + SHINGLE_BYTES] for at in range(len(text) - SHINGLE_BYTES + 1)}


def jaccard(a: bytes, b: bytes) -> float:
    return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))


def sketch(text: bytes) -> MinHash:
    hashed = MinHash(num_perm=128, seed=1)
    hashed.update_batch(sorted(shingles(text)))
    return hashed


def changed(text: str, share: float, draw: random.Random) -> str:
    return " ".join(word if draw.random() > share else f"x{draw.random():.3f}" for word in text.split())


def test_estimates_are_as_good_as_those_of_datasketch(shared: Path) -> None:
    draw = random.Random(0)
    texts = [words(item) for item in read(shared / "data/ft_gsm8k/train.jsonl") if isinstance(item, Example)][:60]
    ours, theirs = [], []
    for number, text in enumerate(texts):
        a, b = text.encode(), changed(text, 0.005 * (number % 20), draw).encode()
        table = signatures([a, b])
        ours.append((table[0] == table[1]).mean() - jaccard(a, b))
        theirs.append(sketch(a).jaccard(sketch(b)) - jaccard(a, b))
    spread = (sum(error**2 for error in ours) / len(ours)) ** 0.5
    reference = (sum(error**2 for error in theirs) / len(theirs)) ** 0.5
    assert abs(sum(ours) / len(ours)) < 0.03  # no bias
    assert spread < 1.3 * reference * 2**0.5 + 0.02  # 64 bins where datasketch has 128


def test_a_text_has_the_same_signature_in_any_company() -> None:
    texts = [b"", b"short", b"a" * 8, b"quite another sentence about nothing in particular", b"x" * 500]
    together = signatures(texts)
    for text, row in zip(texts, together, strict=True):
        assert (signatures([text])[0] == row).all()


def test_pairs_are_found_in_a_crowd(shared: Path) -> None:
    draw = random.Random(1)
    texts = [" ".join(words(item).split()) for item in read(shared / "data/ft_gsm8k/train.jsonl") if isinstance(item, Example)][:1500]
    found = Signatures()
    for row, text in enumerate([*texts, *[changed(text, 0.01, draw) for text in texts[:100]]]):
        found.add(row, text)
    pairs = list(found.pairs())
    hits = [(later, earlier) for later, earlier, _ in pairs if later >= 1500 and earlier == later - 1500]
    assert len(hits) >= 85  # one word in a hundred changed leaves most above 0.8
    assert all(jaccard(texts[a].lower().encode(), texts[b].lower().encode()) > 0.6 for a, b, _ in pairs if a < 1500)


def test_rows_beyond_the_limit_are_counted() -> None:
    found = Signatures(limit=2)
    for row in range(5):
        found.add(row, "the same sentence every time, long enough for a shingle")
    assert [(later, earlier) for later, earlier, _ in found.pairs()] == [(1, 0)]
    assert found.passed_over == 3


def test_exact_duplicates_against_a_dictionary() -> None:
    draw = random.Random(2)
    digests, first, expected = Digests(), dict[bytes, int](), []
    for row in range(1, 3000):
        content = draw.randrange(2000).to_bytes(16, "little")
        digests.add(row, content)
        if content in first:
            expected.append((row, first[content]))
        first.setdefault(content, row)
    assert sorted(digests.duplicates()) == expected
    assert len(digests) == 2999
    other = Digests()
    other.add(7, (5).to_bytes(16, "little"))
    fives = [first[(5).to_bytes(16, "little")], *(row for row, original in expected if original == first[(5).to_bytes(16, "little")])]
    assert digests.common(other) == [(row, 7) for row in fives]
    assert list(Digests().duplicates()) == []
