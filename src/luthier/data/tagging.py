"""Words that get a tag each: where a text's tokens hold the last of every word."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence as Several

from luthier.data.plain import Plain
from luthier.data.render import Renderer


def words(renderer: Renderer, words: Several[str]) -> tuple[list[int], list[int]]:
    """A text of these words with spaces between, the tokens around it included, and the place of each word's last token."""
    plain = renderer.plain
    prefix, suffix = (plain.prefix, plain.suffix) if isinstance(plain, Plain) else (renderer.parts.prefix, [renderer.end_token])
    ids, ends = renderer.tokenizer.encode_ends(" ".join(words))
    places, border = [], -1
    for word in words:
        border += 1 + len(word)
        place = bisect_right(ends, border) - 1
        places.append(len(prefix) + place + (place < 0 or ends[place] < border))  # a token may reach over the border
    return [*prefix, *ids, *suffix], places
