"""Spans of words from tags: BIO (``B-PER I-PER O``), as CoNLL-2003 is scored.

A span is a type, its first word and the word behind its last. An ``I-`` without a beginning of its type opens a span, as in the
``conlleval`` script (Tjong Kim Sang and Buchholz, 2000).
"""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[str, int, int]


def spans(tags: Sequence[str]) -> set[Span]:
    """Every span of a row of tags. A tag without ``B-`` or ``I-`` other than ``O`` is a span of one word."""
    found: set[Span] = set()
    kind, start = "", 0
    for place, tag in enumerate([*tags, "O"]):
        mark, _, name = tag.partition("-")
        goes_on = mark == "I" and name == kind
        if kind and not goes_on:
            found.add((kind, start, place))
            kind = ""
        if tag != "O" and not goes_on:
            kind, start = (name if mark in ("B", "I") and name else tag), place
    return found
