"""Completions: from the wire to the engine and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.inference.serving.ask import Answering, Asked, Delta, TokenInfo, Usage
from luthier.server.answering import chats
from luthier.server.errors import invalid
from luthier.server.wire import completions as wire
from luthier.server.wire._base import ignored_by

DEFAULT_TOKENS = 16
"""The wire's longest answer where nothing is said."""


def asked(body: wire.CreateCompletion, *, key: str, seconds: float) -> list[Asked]:
    """What the engine is asked: a question for each prompt.

    Raises:
        WireError: fields that do not fit together, or that are not done here.
    """
    num = body.n or 1
    if body.suffix:
        raise invalid("Invalid 'suffix': models here write on, they do not write in between.", param="suffix", code="invalid_value")
    if body.best_of is not None and body.best_of not in (0, 1) and (body.best_of < num or body.stream):
        raise invalid("Invalid 'best_of': it is at least n, and not for streams.", param="best_of", code="invalid_value")
    drawn = body.drawn() | {"n": max(num, body.best_of or 1)}
    logprobs = body.logprobs if body.logprobs is not None or drawn["n"] == num else 0
    longest = DEFAULT_TOKENS if body.max_tokens is None else body.max_tokens
    return [
        Asked(**drawn, prompt=prompt, max_tokens=longest, logprobs=logprobs, echo=bool(body.echo), key=key, seconds=seconds)
        for prompt in prompts(body.prompt)
    ]


def prompts(said: Any) -> list[str | list[int]]:
    """One text, several, one list of tokens, or several."""
    if isinstance(said, str) or (said and isinstance(said[0], int)):
        return [said]
    return list(said)


def best(answers: list[Delta], num: int) -> list[Delta]:
    """The `num` likeliest per token, where more were drawn, in their order."""
    if len(answers) == num:
        return answers
    kept = sorted(answers, key=_mean, reverse=True)[:num]
    return [Delta(place, one.text, one.tokens, finish=one.finish) for place, one in enumerate(sorted(kept, key=lambda one: one.index))]


def _mean(answer: Delta) -> float:
    said = [info.logprob for info in answer.tokens if info.logprob is not None]
    return sum(said) / len(said) if said else 0.0


def facts(body: wire.CreateCompletion, answerings: Sequence[Answering], id: str, created: int) -> dict[str, Any]:
    """What every answer and every frame says."""
    return {"id": id, "created": created, "model": body.model, "system_fingerprint": answerings[0].fingerprint or None}


def whole(body: wire.CreateCompletion, answerings: Sequence[Answering], found: list[list[Delta]], id: str, created: int) -> wire.Completion:
    """The whole answer, of one delta for each choice of each prompt."""
    kept = [delta for answers in found for delta in best(answers, body.n or 1)]
    choices = [choice(delta, index, logprobs=body.logprobs is not None) for index, delta in enumerate(kept)]
    usage = chats.usage(used(answerings))
    return wire.Completion(**facts(body, answerings, id, created), choices=choices, usage=usage, luthier=ignored_by(body))


def used(answerings: Sequence[Answering]) -> Usage:
    """Tokens of several questions."""
    total = Usage()
    for answering in answerings:
        total.prompt += answering.usage.prompt
        total.completion += answering.usage.completion
        total.cached += answering.usage.cached
    return total


def choice(delta: Delta, index: int, *, logprobs: bool) -> wire.CompletionChoice:
    """A whole answer."""
    finish: Any = delta.finish or "stop"
    said = _logprobs(delta.tokens, 0) if logprobs else None
    return wire.CompletionChoice(index=index, text=delta.text, finish_reason=finish, logprobs=said)


def chunk_choice(delta: Delta, index: int, offset: int, *, logprobs: bool) -> wire.CompletionChunkChoice:
    """What is new. offset: characters of the answer so far."""
    finish: Any = delta.finish
    said = _logprobs(delta.tokens, offset) if logprobs and delta.tokens else None
    return wire.CompletionChunkChoice(index=index, text=delta.text, finish_reason=finish, logprobs=said)


def _logprobs(tokens: list[TokenInfo], offset: int) -> wire.CompletionLogprobs:
    offsets = []
    for info in tokens:
        offsets.append(offset)
        offset += len(info.text)
    return wire.CompletionLogprobs(
        tokens=[info.text for info in tokens],
        token_logprobs=[info.logprob for info in tokens],
        top_logprobs=[_top(info) for info in tokens],
        text_offset=offsets,
    )


def _top(info: TokenInfo) -> dict[str, float] | None:
    if info.logprob is None:
        return None
    return {raw.decode(errors="replace"): logprob for _, raw, logprob in info.top} | {info.text: info.logprob}
