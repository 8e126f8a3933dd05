"""What happens to a row longer than the model reads: exactly what ``data.too_long`` says, and never in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from luthier.core.errors import DataError
from luthier.core.example import Example, Message
from luthier.core.sequence import Sequence
from luthier.data.paths import Paths
from luthier.data.plain import Plain
from luthier.data.render import Renderer

System = ("system", "developer")


@dataclass(slots=True)
class Fitted:
    """A row as it will be read.

    Attributes:
        sequences: token paths, none longer than the context; empty when the row is dropped.
        cut: tokens of the row that no path holds any more, or that an answer no longer sees.
        reason: what was done, in words; empty when nothing was.
    """

    sequences: list[Sequence]
    cut: int = 0
    reason: str = ""


def fit(renderer: Renderer, example: Example, sequences: list[Sequence], *, learn: str, context: int, policy: str) -> Fitted:
    """Apply a policy to the rendered row.

    Args:
        policy: ``refuse``; ``drop``; ``split``: a text becomes windows in which each token is learned once, a dialogue becomes one path
            per answer that lost sight of its oldest turns (whole turns, never the system turn), nothing else is split; ``cut_prompt``:
            oldest turns go first, then the leftmost prompt tokens behind the begin-of-text token, and never a token of an answer; an
            encoder's text loses its end.

    Raises:
        DataError: ``too_long``, when the policy is to refuse or cannot make the row fit.
    """
    longest = max(map(renderer.length, sequences), default=0)
    if longest <= context:
        return Fitted(sequences)
    if policy == "drop":
        return Fitted([], sum(len(s.tokens) for s in sequences), f"dropped: {longest:,} tokens, the model reads {context:,}")
    if any(sequence.media for sequence in sequences) and renderer.plain is None:
        raise _refused(example, longest, context, policy, "a row with pictures")
    if renderer.plain is not None:
        if policy == "cut_prompt" and not example.pair and isinstance(renderer.plain, Plain):
            return _without_end(renderer.plain, sequences[0], context)
        raise _refused(example, longest, context, policy)
    if policy == "split" and example.form == "text":
        return _windows(sequences[0], context)
    if policy == "split" and example.form == "chat":
        return _answer_by_answer(renderer, example, learn=learn, context=context, inside=False)
    if policy == "cut_prompt" and example.sided:
        return _pair(renderer, example, learn=learn, context=context)
    if policy == "cut_prompt" and example.form != "text":
        return _answer_by_answer(renderer, example, learn=learn, context=context, inside=True)
    raise _refused(example, longest, context, policy)


def _without_end(plain: Plain, sequence: Sequence, context: int) -> Fitted:
    """What an encoder reads of a long text: its beginning."""
    read = plain.length(sequence)
    tokens = np.array(plain.ended(sequence.tokens[:read].tolist(), context), np.int32)
    weights = np.concatenate([np.zeros(len(tokens), np.float32), sequence.weights[read:]])
    cut = read - len(tokens)
    return Fitted(
        [Sequence(np.concatenate([tokens, sequence.tokens[read:]]), weights)], cut, f"cut_prompt: the last {cut} tokens are left out"
    )


def _windows(sequence: Sequence, context: int) -> Fitted:
    """Windows that overlap by one token, which is only read the second time: so every token is learned exactly once."""
    windows = []
    for start in range(0, len(sequence.tokens) - 1, context - 1):
        weights = sequence.weights[start : start + context].copy()
        weights[0] = 0
        windows.append(Sequence(sequence.tokens[start : start + context], weights, sequence.part))
    return Fitted(windows, 0, f"split: {len(windows)} windows")


def _answer_by_answer(renderer: Renderer, example: Example, *, learn: str, context: int, inside: bool) -> Fitted:
    """Each answer with as much of what precedes it as fits; `inside` allows to cut within a turn when whole turns do not suffice."""
    paths, cut, changed = Paths(), 0, 0
    (strand,) = renderer.strands(example, learn=learn)
    joined = example.form == "completion" and not renderer.has_template
    for turn in strand.turns:
        prompt, answer = renderer.encode_turn(turn)
        prompt = whole = strand.prefix + prompt
        if len(prompt) + len(answer) > context:
            if not joined:
                prompt = _fewest_turns_less(renderer, example, turn.index, room=context - len(answer))
            if len(prompt) + len(answer) > context:
                prompt = _cut_left(renderer, example, prompt, answer, context, inside)
            cut, changed = cut + len(whole) - len(prompt), changed + 1
        fresh = 1.0 if strand.everything and prompt is whole else 0.0
        paths.add(prompt, answer, weight=turn.weight, prompt_weight=fresh)
    answers = len(strand.turns)
    verb, tail = "cut_prompt" if inside else "split", "; words after the last answer are left out" if strand.tail else ""
    return Fitted(paths.sequences(), cut, f"{verb}: {changed} of {answers} answers see less of what precedes them{tail}")


def _fewest_turns_less(renderer: Renderer, example: Example, index: int, *, room: int) -> list[int]:
    """The longest prompt of at most `room` tokens that keeps the system turn and drops whole turns from the old end, else the shortest."""
    prompt: list[int] = []
    for messages in shorter(example.messages[:index]):
        prompt = renderer.prompt(messages, tools=example.tools)
        if len(prompt) <= room:
            break
    return prompt


def shorter(messages: list[Message]) -> Iterator[list[Message]]:
    """The conversation with fewer and fewer old turns: leading system turns stay, and what is left begins with a user turn."""
    head = next((n for n, message in enumerate(messages) if message.role not in System), len(messages))
    starts = [n for n in range(head, len(messages)) if messages[n].role == "user" or n == head]
    for start in starts:
        yield messages[:head] + messages[start:]


def _cut_left(renderer: Renderer, example: Example, prompt: list[int], answer: list[int], context: int, inside: bool) -> list[int]:
    keep = _begin(renderer, prompt)
    room = context - len(answer) - keep
    if not inside or room + keep < 1:
        what = "the answer alone" if inside else "the answer with the one turn before it"
        raise _refused(example, len(prompt) + len(answer), context, "cut_prompt" if inside else "split", what)
    return prompt[:keep] + (prompt[-room:] if room > 0 else [])


def _begin(renderer: Renderer, prompt: list[int]) -> int:
    """1 when the prompt opens with the begin-of-text token, which is kept."""
    begin = renderer.tokenizer.id_of(str(renderer.parts.variables.get("bos_token", "")))
    return int(begin is not None and prompt[:1] == [begin])


def _pair(renderer: Renderer, example: Example, *, learn: str, context: int) -> Fitted:
    """Both answers of a pair behind the same, shorter prompt."""
    whole = sum(len(sequence.tokens) for sequence in renderer.render(example, learn=learn))
    sequences: list[Sequence] = []
    for messages in shorter(example.messages):
        sequences = renderer.render(replace(example, messages=messages), learn=learn)
        if max(len(sequence.tokens) for sequence in sequences) <= context:
            break
    need = max(len(sequence.tokens) for sequence in sequences) - context
    if need > 0:
        keep = _begin(renderer, sequences[0].tokens[:1].tolist())
        free = min(int(np.flatnonzero(sequence.weights)[0]) for sequence in sequences) - max(keep, 1)
        if need > free:
            raise _refused(example, context + need, context, "cut_prompt", "the longer answer alone")
        sequences = [_without(sequence, keep, keep + need) for sequence in sequences]
    return Fitted(sequences, whole - sum(len(sequence.tokens) for sequence in sequences), "cut_prompt: both answers see less of the prompt")


def _without(sequence: Sequence, start: int, stop: int) -> Sequence:
    return Sequence(np.delete(sequence.tokens, slice(start, stop)), np.delete(sequence.weights, slice(start, stop)), sequence.part)


def _refused(example: Example, tokens: int, context: int, policy: str, what: str = "") -> DataError:
    remedies = {
        "refuse": "Set data.too_long to split, cut_prompt or drop, or choose a model that reads more.",
        "split": "Set data.too_long to cut_prompt or drop, shorten the row, or choose a model that reads more.",
        "cut_prompt": "Set data.too_long to drop (or split, for plain text), shorten the row, or choose a model that reads more.",
    }
    reason = f" data.too_long is {policy}, but {what or 'this kind of row'} cannot be made to fit by it." if policy != "refuse" else ""
    return DataError(
        f"{tokens:,} tokens, but the model reads {context:,}.{reason}", where=str(example.source), remedy=remedies[policy], code="too_long"
    )
