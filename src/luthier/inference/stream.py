"""One answer, piece by piece, as it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from luthier.inference.generate import WORTH_PACKING, begin, check_settings, room, unsaid
from luthier.inference.keeper import Keeper
from luthier.inference.pick import Picker
from luthier.models import slot
from luthier.models.model import Model

BROKEN = "\ufffd"
"""What a decoder writes for bytes that are no whole character (yet)."""

LONGEST_CHARACTER = 4
"""Bytes of the longest UTF-8 character: with one byte per token, no character needs more tokens."""


def stream(
    model: Model,
    prompt: list[int],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: frozenset[int] | None = None,
    keeper: Keeper | None = None,
) -> Iterator[str]:
    """The answer to `prompt` in pieces of text; joined they are the decoded answer. Stop asking to stop writing.

    Args:
        stop: tokens that end the answer; by default those of the model's template.
        keeper: remembers prompt and answer, and what it knows of the prompt is not read again.

    Raises:
        DataError: the prompt is empty or fills the model's context.
        SpecError: temperature or top_p out of range.
    """
    ends = model.renderer.end_tokens if stop is None else stop
    said = tokens(model, prompt, max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=ends, keeper=keeper)
    return text(said, model.renderer.decode)


def tokens(
    model: Model,
    prompt: list[int],
    *,
    max_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    stop: frozenset[int],
    keeper: Keeper | None = None,
) -> Iterator[int]:
    """The answer's token ids without the end token, one by one. Settings are checked at once, not at the first token."""
    check_settings(temperature=temperature, top_p=top_p)
    limit = min(max_tokens, room(model, prompt))
    picker = Picker([0], temperature=temperature, top_p=top_p, seed=seed, never=unsaid(model))
    return _tokens(model, prompt, limit, picker, stop, keeper or Keeper())


def _tokens(model: Model, prompt: list[int], limit: int, picker: Picker, stop: frozenset[int], keeper: Keeper) -> Iterator[int]:
    reader = keeper.reader(model, pack=limit >= WORTH_PACKING)
    writing = begin(reader, [prompt], picker, limit=limit, owners=[(model.network, slot.answers(model.network))], keeper=keeper)
    said: list[int] = []
    try:
        while len(said) < limit:
            (token,), _ = writing.step()
            said.append(token)
            if token in stop:
                return
            yield token
    finally:
        writing.keep_said(said)


def text(pieces: Iterable[int], decode: Callable[[Iterable[int]], str]) -> Iterator[str]:
    """Text of tokens as they come. A character whose bytes are spread over tokens is held back until it is whole.

    Tokens are decoded together with the ones before them, because decoders treat the first token differently (a leading space).
    """
    window: list[int] = []  # tokens given out already, for context, and those held back
    given = ""
    held = 0
    for token in pieces:
        window.append(token)
        held += 1
        now = decode(window)
        if now.endswith(BROKEN) and held < LONGEST_CHARACTER:
            continue
        if len(now) > len(given):
            yield now[len(given) :]
        window, given = window[-held:], decode(window[-held:])
        held = 0
    if held and len(rest := decode(window)) > len(given):
        yield rest[len(given) :]
