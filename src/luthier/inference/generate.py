"""Answers to many prompts: what prompts begin with in common is read once, then all rows write one token per step.

B rows, V vocabulary, D width of a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from luthier.core.errors import DataError, SpecError
from luthier.inference.beside import Beside
from luthier.inference.keeper import Keeper, Owner
from luthier.inference.pick import Picker
from luthier.inference.prefill import Prompt, media_of, prefill, shared, stacked
from luthier.inference.reader import Reader, answering
from luthier.inference.routes import Routes, routed
from luthier.models import replay, slot
from luthier.models.model import Model
from luthier.models.recall import Recall
from luthier.models.replay import Replay
from luthier.models.steady import Steady

BUDGET = 16_384
"""Tokens whose keys and values are kept at once; for SmolLM2-135M in bfloat16 (23 KB a token) about 380 MB."""

MOST_ROWS = 128
"""Rows of one batch: beyond it a step's matmuls are at full rate already, and their `[B, V]` scores only cost memory."""

WORTH_PACKING = 16
"""Longest answer, in tokens, from which on laying the weights out pays: it costs about as much as it saves in so many steps."""

WORTH_RECORDING = 16
"""Longest answer, in tokens, from which on a step is recorded (`models/replay.py`): recording takes as long as some steps. Not measured."""


@dataclass(slots=True)
class Generation:
    """What a model wrote.

    Attributes:
        tokens: token ids, the end token included when there is one.
        stopped: the model ended by itself; otherwise the limit, or the end of its context, ended it.
        logprobs: log-probability of each token under the model itself, in nats.
    """

    tokens: list[int] = field(default_factory=list)
    stopped: bool = False
    logprobs: list[float] = field(default_factory=list)

    @property
    def answer(self) -> list[int]:
        """The tokens without the end token."""
        return self.tokens[:-1] if self.stopped else self.tokens


def generate(
    model: Model,
    prompts: list[Prompt],
    *,
    max_tokens: int | list[int],
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: frozenset[int] = frozenset(),
    budget: int = BUDGET,
    adapters: list[str | None] | None = None,
    keeper: Keeper | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Continue each prompt. Results do not depend on how prompts are batched (beyond rounding), nor on their order but for sampling.

    Args:
        prompts: token ids, none empty. max_tokens: most tokens to write, for all or for each; the model's context also ends a row.
        temperature, top_p, seed: see `Picker`; temperature 0 is greedy.
        stop: tokens that end an answer.
        budget: tokens kept in memory at once.
        adapters: who answers each prompt, by the name it has in its slots; None is the base. Left out, whoever answers now.
        keeper: what several calls have in common; prompts that begin as earlier ones did are read from there on.
        on_progress: called with rows finished and rows in all.

    Raises:
        DataError: a prompt is empty or fills the model's context.
        SpecError: temperature or top_p out of range.
        ModelError: an adapter is not there, or not a low-rank one.
    """
    check_settings(temperature=temperature, top_p=top_p)
    wanted = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
    limits = [
        min(limit, room(model, prompt, name=f"prompt {i + 1}")) for i, (limit, prompt) in enumerate(zip(wanted, prompts, strict=True))
    ]
    found = [Generation() for _ in prompts]
    done = 0
    owners: list[Owner] = [(model.network, name) for name in adapters or [slot.answers(model.network)] * len(prompts)]
    reader = (keeper or Keeper()).reader(model, pack=max(limits, default=0) >= WORTH_PACKING)
    with _several(model, adapters) as routes:
        for rows in _batches(prompts, limits, owners, budget):
            picker = Picker(rows, temperature=temperature, top_p=top_p, seed=seed, never=unsaid(model))
            asked, theirs = [prompts[row] for row in rows], [owners[row] for row in rows]
            writing = begin(reader, asked, picker, limit=max(limits[row] for row in rows), owners=theirs, keeper=keeper, routes=routes)
            for _ in _write(writing, rows, found, limits, stop):
                done += 1
                if on_progress:
                    on_progress(done, len(prompts))
    return found


def _several(model: Model, adapters: list[str | None] | None) -> AbstractContextManager[Routes | None]:
    return (
        nullcontext() if adapters is None else routed(model.network, sorted({name for name in adapters if name is not None}), model.dtype)
    )


def check_settings(*, temperature: float, top_p: float) -> None:
    """Refuse numbers no distribution can be drawn with.

    Raises:
        SpecError: names the number and its range.
    """
    if not 0 <= temperature <= 10:
        raise SpecError(
            f"temperature = {temperature} does not do.",
            remedy="Choose 0 (always the likeliest token) to 10; 0.7 is common.",
            code="bad_value",
        )
    if not 0 < top_p <= 1:
        raise SpecError(f"top_p = {top_p} does not do.", remedy="Choose more than 0, at most 1 (nothing cut off).", code="bad_value")


def unsaid(model: Model) -> tuple[int, ...]:
    """Tokens a model never writes: that of a picture stands for what is seen, and there would be none."""
    eyes = model.renderer.eyes
    return (eyes.id,) if eyes else ()


def room(model: Model, prompt: Prompt, *, name: str = "the prompt") -> int:
    """Tokens the model can still write after `prompt`.

    Raises:
        DataError: the prompt is empty, or leaves no room.
    """
    if not prompt:
        raise DataError(f"There is nothing to continue: {name} has no tokens.", remedy="Give it at least one token.", code="empty_prompt")
    if len(prompt) >= model.context:
        what = f"{name} has {len(prompt):,} tokens, but {model.name} reads {model.context:,} and needs room for an answer."
        raise DataError(what, remedy="Shorten it, or choose a model with a longer context.", code="prompt_too_long")
    return model.context - len(prompt)


class Writing:
    """Rows that write together: `step` gives each its next token.

    Args:
        prompts: sorted. limit: most tokens any of them will write. owners: who answers each.
        keeper: where known beginnings are found and new ones kept. routes: where rows answer with different adapters.
    """

    def __init__(
        self,
        reader: Reader,
        prompts: list[Prompt],
        picker: Picker,
        *,
        limit: int,
        owners: list[Owner],
        keeper: Keeper | None = None,
        routes: Routes | None = None,
    ) -> None:
        self.reader, self.model, self.picker = reader, reader.model, picker
        self.prompts, self.owners, self.keeper, self.routes = prompts, owners, keeper, routes
        device = self.model.device
        self.adapters_B = torch.tensor([routes.number(name) if routes else 0 for _, name in owners], device=device)
        with answering(self.model):
            laid = prefill(prompts, owners, keeper)
            self._send(torch.from_numpy(laid.owner_N()).to(device))
            self.states_BD = laid.read(reader)
            recorded = device.type in replay.DEVICES and limit >= WORTH_RECORDING
            self.recall = (Steady if recorded else Recall)(laid.onward.memories, laid.trees.paths, room=limit)
            self.read = Replay(self._read) if recorded else None
            for row, (owner, prompt) in enumerate(zip(owners, prompts, strict=True)):
                if keeper and not media_of(prompt):
                    keeper.put(owner, prompt, partial(laid.states, row))
        self._send(torch.arange(len(prompts), device=device))
        self.positions_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.tokens_B: Tensor | None = None

    def step(self) -> tuple[list[int], list[float]]:
        """Next token of each row and its log-probability."""
        with answering(self.model):
            if self.tokens_B is None:
                self.tokens_B, logprobs_B = self.picker.pick(self.reader.logits(self.states_BD))
            else:
                tokens_B, logprobs_B = self.picker.pick(self._logits())
                self.tokens_B.copy_(tokens_B)
        return self.tokens_B.tolist(), logprobs_B.tolist()

    def _logits(self) -> Tensor:
        """Scores of what comes after the last tokens."""
        logits_BV = self._read() if self.read is None else self.read((len(self.positions_B), self.recall.seen))
        self.positions_B += 1
        self.recall.advance()
        return logits_BV

    def _read(self) -> Tensor:
        """One step of the network, from tokens and positions that stay in their places."""
        assert self.tokens_B is not None
        # To the network, B rows with one token each are B tokens; who sees what is the business of the recall.
        return self.reader.logits(self.reader.states(tokens_T=self.tokens_B, positions_T=self.positions_B, sight=self.recall))

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only."""
        assert self.tokens_B is not None
        index = torch.tensor(rows, device=self.tokens_B.device)
        self.tokens_B, self.positions_B, self.adapters_B = (x[index] for x in (self.tokens_B, self.positions_B, self.adapters_B))
        self._send(torch.arange(len(rows), device=index.device))
        self.recall.keep(rows)
        self.picker.keep(rows)

    def keep_said(self, said: list[int]) -> None:
        """Let the keeper know what a single row has written, but for its last token, which was never read."""
        if self.keeper and not media_of(self.prompts[0]):
            with answering(self.model):
                states = stacked(self.recall.memories(0))
                self.keeper.put(self.owners[0], [*self.prompts[0], *said[:-1]], lambda start: states[..., start:, :])

    def _send(self, rows_T: Tensor) -> None:
        if self.routes:
            self.routes.send(self.adapters_B[rows_T])


def begin(
    reader: Reader,
    prompts: list[Prompt],
    picker: Picker,
    *,
    limit: int,
    owners: list[Owner],
    keeper: Keeper | None = None,
    routes: Routes | None = None,
) -> Writing | Beside:
    """Rows that write together, in the way of their model's family. Arguments as of `Writing`."""
    if hasattr(reader.model.family, "write_beside"):
        return Beside(reader, prompts, picker, routed=routes is not None)
    return Writing(reader, prompts, picker, limit=limit, owners=owners, keeper=keeper, routes=routes)


def _batches(prompts: list[Prompt], limits: list[int], owners: list[Owner], budget: int) -> Iterator[list[int]]:
    """Rows by adapter and in the order of their tokens, so that equal beginnings meet, cut where the next row would pass the budget."""
    batch: list[int] = []
    for row in sorted(range(len(prompts)), key=lambda row: (owners[row][1] or "", prompts[row])):
        if limits[row] < 1:
            continue
        if batch and (len(batch) == MOST_ROWS or _cost([*batch, row], prompts, limits, owners) > budget):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _cost(rows: list[int], prompts: list[Prompt], limits: list[int], owners: list[Owner]) -> int:
    """Tokens kept for a sorted batch: the common beginning once, and a rectangle for the rest."""
    common = shared(prompts[rows[0]], prompts[rows[-1]]) if owners[rows[0]] == owners[rows[-1]] else 0
    return common + len(rows) * (max(len(prompts[row]) for row in rows) - common + max(limits[row] for row in rows))


def _write(writing: Writing | Beside, rows: list[int], found: list[Generation], limits: list[int], stop: frozenset[int]) -> Iterator[int]:
    """Write until every row has ended; yields each row as it ends."""
    running = dict(enumerate(rows))  # place in the batch -> row
    places = len(rows)
    while running:
        tokens, logprobs = writing.step()
        for place, row in list(running.items()):
            answer = found[row]
            answer.tokens.append(tokens[place])
            answer.logprobs.append(logprobs[place])
            answer.stopped = tokens[place] in stop
            if answer.stopped or len(answer.tokens) == limits[row]:
                del running[place]
                yield row
        if running and len(running) <= 0.75 * places:  # leaving costs a copy of all that is remembered: not for each row
            writing.keep(list(running))
            running = dict(enumerate(running.values()))
            places = len(running)
