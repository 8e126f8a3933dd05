"""One base and the adapters beside it in memory. Low-rank ones read in one pass with each other and with the base; any other kind in a
pass of its own.

Every linear of the blocks stands in a slot from the beginning, so that an adapter can be hung in while others write: it is loaded and
proven on a twin of the network, which has slots of its own and the very same weights, and then hung in between two steps.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from luthier.core.errors import ModelError
from luthier.inference.reader import Reader
from luthier.inference.routes import NAME, Routed, Routes, Stack
from luthier.methods._lowrank import LowRank
from luthier.models import slot
from luthier.models.model import Model
from luthier.models.pool import Paged
from luthier.models.sight import Sight

SPARE = 4
"""Adapters that stay stacked though nobody asks them now: each costs its rank in every thin matmul, stacking anew costs more."""


@dataclass(slots=True)
class Member:
    """An adapter in memory. deltas: by the path of the module they stand at. low_rank: it reads beside others."""

    deltas: dict[str, nn.Module]
    low_rank: bool
    bytes: int
    pinned: bool = False


class Crowd:
    """See the page's head. Only the engine's thread may change it.

    Attributes:
        members: adapters by name, the longest unused first. writes: the base writes text.
    """

    def __init__(self, model: Model, *, pack: bool = True) -> None:
        if hasattr(model.family, "write_beside"):
            raise ModelError(
                f"{model.name} writes beside a source, which the service does not serve yet.",
                where="model",
                remedy="Ask it with `luthier evaluate`, or serve a decoder.",
                code="not_served",
            )
        if "words" not in model.family.GIVES:
            raise ModelError(
                f"{model.name} reads no words, and a request holds nothing else.",
                where="model",
                remedy="Ask it with `luthier predict`, or ask a model that reads texts.",
                code="no_text",
            )
        for path in model.linears():
            slot.place(model.network, path)
        self.model = model
        self.writes = "next-token" in model.family.GIVES  # encoders do not: they are read for their states only, every row whole
        self.reader = Reader(model, pack=pack) if self.writes else None
        self.members: OrderedDict[str, Member] = OrderedDict()
        self._slots = slot.slots(model.network)
        self._linear = frozenset(self._slots)
        self._routes = Routes([])
        self._mixed: list[str] = []  # adapters that stand in the slots together now
        self._awake = False  # and answer
        self._active: str | None = None  # the one that stands in them alone now

    def twin(self) -> Model:
        """A model with slots of its own on the same weights: what is hung in there changes nothing here."""
        kept = [*self.model.network.parameters(), *self.model.network.buffers()]
        network = copy.deepcopy(self.model.network, {id(tensor): tensor for tensor in kept})
        slot.restore(network)
        return replace(self.model, network=network)

    @property
    def bytes(self) -> int:
        """Memory of all members."""
        return sum(member.bytes for member in self.members.values())

    def hang(self, name: str, deltas: dict[str, nn.Module], *, pinned: bool = False) -> None:
        """Take in an adapter. Low-rank ones are kept in the number format of the arithmetic."""
        low_rank = all(type(delta) is LowRank and path in self._linear for path, delta in deltas.items())
        for path, delta in deltas.items():
            delta.requires_grad_(False).eval()
            if low_rank:
                for parameter in delta.parameters():
                    parameter.data = parameter.data.to(self.model.dtype)
            slot.place(self.model.network, path).host(name, delta)
        self._slots = slot.slots(self.model.network)
        size = sum(tensor.nbytes for delta in deltas.values() for tensor in (*delta.parameters(), *delta.buffers()))
        self.members[name] = Member(deltas, low_rank, size, pinned)

    def dismiss(self, name: str) -> None:
        """Let go of an adapter nobody asks."""
        if name in self._mixed or self._active == name:
            self._clear()
        for path in self.members.pop(name).deltas:
            self._slots[path].dismiss(name)

    def touch(self, name: str, *, pinned: bool = False) -> None:
        """It was asked for just now, and is pinned or not from now on."""
        self.members[name].pinned = pinned
        self.members.move_to_end(name)

    def oldest(self, busy: Iterable[str]) -> str | None:
        """Who was not asked for longest, of those neither pinned nor busy."""
        return next((name for name, member in self.members.items() if not member.pinned and name not in busy), None)

    def apart(self, owner: str | None) -> str | None:
        """See `batch.Readers`."""
        return None if owner is None or self.members[owner].low_rank else owner

    def states(self, owners: list[str | None], counts: list[int], tokens: list[int], positions: list[int], sight: Paged) -> Tensor:
        """See `batch.Readers`."""
        names = sorted({owner for owner in owners if owner is not None})
        single = names[0] if names and not self.members[names[0]].low_rank else None
        if single is not None:
            self._stand_alone(single)
        else:
            self._stand(names)
        device = self.model.device
        tokens_T, positions_T = torch.tensor(tokens, device=device), torch.tensor(positions, device=device)
        if self._awake:
            numbers = torch.tensor([self._routes.number(owner) for owner in owners])
            self._routes.send(numbers.repeat_interleave(torch.tensor(counts)).to(device))
        if self.reader is None:
            ends = np.cumsum(counts).repeat(counts)
            return self.model.states(tokens_T=tokens_T, positions_T=positions_T, sight=Sight(ends, np.array(positions)))
        if single is not None and not self.members[single].deltas.keys() <= self._linear:
            return self.model.states(tokens_T=tokens_T, positions_T=positions_T, sight=sight)  # type: ignore[arg-type]
        return self.reader.states(tokens_T=tokens_T, positions_T=positions_T, sight=sight)

    def scores(self, states_BD: Tensor) -> Tensor:
        """See `batch.Readers`."""
        assert self.reader is not None
        return self.reader.logits(states_BD)

    def _stand(self, names: list[str]) -> None:
        """Let these answer beside each other. Stacking takes a few milliseconds, so those that stand already stay while they are few."""
        if self._active is not None:
            self._clear()
        if not (set(names) <= set(self._mixed) and len(self._mixed) <= 2 * len(names) + SPARE):
            self._clear()
            self._stack(names)
        if self._awake != bool(names):
            self._awake = bool(names)
            for place in self._slots.values():
                place.active = NAME if self._awake and place.delta(NAME) is not None else None

    def _stack(self, names: list[str]) -> None:
        self._mixed, self._routes = names, Routes(names)
        for path, place in self._slots.items():
            here = {i: self.members[name].deltas.get(path) for i, name in enumerate(names)}
            deltas = {i: delta for i, delta in here.items() if isinstance(delta, LowRank)}
            if deltas:
                place.host(NAME, Routed(Stack.of(deltas, self._routes, self.model.dtype)))

    def _stand_alone(self, name: str) -> None:
        if self._active != name:
            self._clear()
            slot.activate(self.model.network, name)
            self._active = name

    def _clear(self) -> None:
        for place in self._slots.values():
            place.active = None
            place.dismiss(NAME)
        self._mixed, self._routes, self._active, self._awake = [], Routes([]), None, False
