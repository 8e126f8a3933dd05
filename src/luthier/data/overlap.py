"""Held-out rows that a model has as good as learned: nearly alike to a training row, so that getting them right proves little."""

from __future__ import annotations

from collections.abc import Iterable

from luthier.core.example import Example, Source
from luthier.data.content import words
from luthier.data.duplicates import NEAR_ROWS, Signatures


def near_learned(learned: Iterable[Example], held_out: list[Example], *, limit: int = NEAR_ROWS) -> list[tuple[Source, Source]]:
    """Each held-out row that is nearly (or wholly) alike to one of the first `limit` training rows, with that row.

    Costs one pass over the training rows; `data.duplicates` has the measure and its threshold.
    """
    signatures, sources = Signatures(limit + len(held_out)), list[Source]()
    for example in learned:
        if len(sources) == limit:
            break
        signatures.add(len(sources), words(example))
        sources.append(example.source)
    first_held = len(sources)
    for example in held_out:
        signatures.add(len(sources), words(example))
        sources.append(example.source)
    return [(sources[late], sources[early]) for late, early, _ in signatures.pairs() if early < first_held <= late]
