"""What a forest asks of memory, seen on a network of one and of two blocks: real widths, real operators, the real forest.

The tape notes the most bytes alive in each phase of forward and backward. In each phase that grows by the same amount with every block and
by the same amount with every token id, so three small networks tell of the whole one, whatever its blocks are made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from luthier.core.sequence import Rows
from luthier.core.spec import TrainSpec
from luthier.engine.ahead import planned
from luthier.engine.order import Order
from luthier.engine.session import Session
from luthier.engine.tape import Tape
from luthier.engine.tree import Pack

VOCABULARY = (4096, 8192)
"""Token ids of the small networks: enough for the head's chunk of scores to outweigh the states beside it."""

STEPS_LOOKED_AT = 1000
"""Steps, evenly spread, among which the heaviest is looked for; planning one takes a millisecond, so only the heaviest few are planned."""

Sample = Callable[[int, int], Session]
"""A session over a network of so many blocks and token ids."""


@dataclass(slots=True, frozen=True)
class Working:
    """Bytes of one forest there and back, beside weights and optimiser state.

    Attributes:
        activations: kept for backward when the head begins. peak: most alive at any moment, gradients that lie in no flat sum included.
    """

    activations: int
    peak: int


def working(sample: Sample, pack: Pack, *, blocks: int, vocabulary: int, forests: int) -> Working:
    """What `pack` will ask of a network with so many blocks and token ids.

    Args:
        forests: of the step the pack belongs to; gradients of several are added up in fp32.
    """
    few, more = (min(vocabulary, size) for size in VOCABULARY)
    least = sample(1, few)
    stacks = len(least.model.blocks())  # an encoder-decoder has a block of each
    one, two = _phases(least, pack, forests), _phases(sample(2, few), pack, forests)
    wide = _phases(sample(1, more), pack, forests) if more > few else one
    share = (vocabulary - few) / (more - few) if more > few else 0.0
    whole = {name: one[name] + (blocks / stacks - 1) * (two[name] - one[name]) + share * (wide[name] - one[name]) for name in one}
    return Working(int(whole.pop("activations")), int(max(whole.values())))


def _phases(session: Session, pack: Pack, forests: int) -> dict[str, int]:
    """Most bytes alive while the last block goes forward, in the head, while the last block goes back, and the first."""
    tape, network = Tape(), session.model.network.train()
    session.optimiser.expect(forests)
    handles = _marked(session, tape)
    pack = replace(pack, tokens_T=_few(pack.tokens_T, session), targets_N=_few(pack.targets_N, session))
    try:
        for _ in range(min(forests, 2) - 1):  # sums of several forests are there from the second on; they are counted with the state
            (session.loss(pack) / max(pack.count(session.objective.per), 1e-9)).backward()
        tape.clear()
        with tape:
            (session.loss(pack) / max(pack.count(session.objective.per), 1e-9)).backward()
    finally:
        for handle in handles:
            handle.remove()
        network.eval()
        session.optimiser.forget()
    deepest = len(session.model.blocks()) - 1
    last, first = tape.peaks.get(f"backward {deepest}", 0), tape.peaks.get("backward 0", 0)
    forward = max(tape.peaks["begin"], tape.peaks.get(f"forward {deepest}", 0))  # a network whose states are kept is not run at all
    head = tape.peaks.get("head", tape.peaks["begin"])
    return {"activations": tape.begins.get("head", 0), "forward": forward, "head": head, "last": last, "first": first}


def _few(tokens: NDArray[np.int64], session: Session) -> NDArray[np.int64]:
    """Ids that a network of few knows; the last is that of a picture (`models.load.shallow`), and no other token's."""
    eyes, known = session.model.renderer.eyes, session.model.vocabulary
    return tokens % known if eyes is None else np.where(tokens == eyes.id, known - 1, tokens % (known - 1))


def _marked(session: Session, tape: Tape) -> list[Any]:
    """Hooks that tell the tape where the work is."""
    handles: list[Any] = []
    blocks = session.model.blocks()
    for number, block in enumerate(blocks):
        after = "head" if number == len(blocks) - 1 else f"forward {number + 1}"
        handles.append(block.register_forward_pre_hook(lambda *_, name=f"forward {number}": tape.enter(name)))
        handles.append(
            block.register_forward_hook(lambda _, __, out, name=f"backward {number}", after=after: _passed(tape, out, name, after))
        )
    return handles


def _passed(tape: Tape, out: Any, name: str, after: str) -> None:
    state = out[0] if isinstance(out, tuple) else out
    if isinstance(state, Tensor) and state.requires_grad:
        state.register_hook(lambda _: tape.enter(name))
    tape.enter(after)


def heaviest(rows: Rows, train: TrainSpec, budget: int, *, parts: int = 1) -> tuple[Pack, int]:
    """The largest forest of the run, and the most forests any step is cut into."""
    order = Order(rows, train)
    looked = range(0, order.steps, max(1, order.steps // STEPS_LOOKED_AT))
    totals = [(sum(len(s.tokens) for i in order.rows(step) for s in rows[i].sequences), step) for step in looked]
    plans = [planned([rows[i] for i in order.rows(step)], budget, parts=parts).packs for _, step in sorted(totals, reverse=True)[:4]]
    largest = max((pack for plan in plans for pack in plan), key=lambda pack: (len(pack.tokens_T), len(pack.rows_N)))
    return largest, max(len(plan) for plan in plans)


def storage_bytes(tensors: list[Tensor]) -> int:
    """Bytes of tensors, each storage counted once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
