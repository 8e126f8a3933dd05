"""A pair of answers, for objectives that do not compare: the better one is learned, the worse one is not read."""

from __future__ import annotations

from dataclasses import replace

from luthier.core.example import Example


def chosen_only(example: Example, *, learn: str) -> Example:
    """A preference row as a conversation that ends with its chosen answer; any other row as it is.

    Args:
        learn: as in ``data.learn``. Earlier answers of the prompt are read only, unless everything is learned.
    """
    if not example.sided:
        return example
    prompt = example.messages if learn == "everything" else [replace(message, weight=0.0) for message in example.messages]
    return replace(example, form="chat", messages=[*prompt, *example.chosen], chosen=[], rejected=[])
