"""The memory planner: what a run will take, part by part, before any weight is loaded; and the least costly way that fits.

Weights, masters and moments are counted on a network without numbers; what a forest asks of memory is seen on one of one block
(``engine/probe.py``). Nothing here knows what a block is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch

from luthier.core.sequence import Rows
from luthier.core.spec import TrainSpec
from luthier.engine.budget import TOKENS_PER_PACK, WHOLE_STEP, usual
from luthier.engine.order import Order
from luthier.engine.probe import Working, heaviest, working
from luthier.engine.session import Session
from luthier.engine.tree import Pack
from luthier.models.machine import resident
from luthier.models.mapped import spans
from luthier.models.model import Model

Kind = Literal["adamw", "adamw8bit", "layerwise"]

LIBRARIES = {torch.bfloat16: 130 * 2**20, torch.float32: 30 * 2**20}
"""What matmul libraries, autograd and the threads' own heaps take once used: seen on the smallest bases (bench/memory.py). Of bf16 kernels
`models.KERNELS_KEPT` gather in some dozens of steps."""

GAPS = {torch.bfloat16: 0.0, torch.float32: 1.0}
"""Memory between blocks in use, and what matmuls take for themselves, as a share of a forest's; fp32 ones copy more (bench/memory.py)."""

GAPS_MORE = {torch.bfloat16: 0.2, torch.float32: 0.0}
"""More of it for each further forest of a step: their sizes differ, and seldom do they take over each other's places (bench/memory.py)."""

SMALLER = (TOKENS_PER_PACK, 1024, 512, 256, 128)
"""Forests smaller than the usual that are weighed; below 128 tokens every matmul is too thin to be worth having."""


@dataclass(slots=True, frozen=True)
class Way:
    """One way to take the same steps."""

    optimiser: Kind
    recompute: bool
    tokens_per_pack: int

    def __str__(self) -> str:
        pack = "a step in one forest" if self.optimiser == "layerwise" else f"{self.tokens_per_pack:,} tokens a forest"
        return f"{self.optimiser}, {pack}{', blocks recomputed' if self.recompute else ''}"


@dataclass(slots=True, frozen=True)
class Need:
    """Bytes of memory one way takes at its highest.

    Attributes:
        program: Python, libraries, data. weights: of the base, as they are computed with. trained: adapters, or masters of the weights.
        moments: of AdamW. gradients: sums kept in one piece (fp32 weights; several forests a step); others are part of `working`.
        activations: kept for backward. working: everything else a forest needs at its worst moment.
        tokens: of the heaviest forest. forests: most in one step.
    """

    way: Way
    program: int
    weights: int
    trained: int
    moments: int
    gradients: int
    activations: int
    working: int
    tokens: int
    forests: int

    @property
    def peak(self) -> int:
        """All of it together."""
        return self.program + self.weights + self.trained + self.moments + self.gradients + self.activations + self.working

    def to_json(self) -> dict[str, Any]:
        """Plain fields, and the sum."""
        return asdict(self) | {"peak": self.peak}


@dataclass(slots=True)
class Plan:
    """What was weighed, in order, and what was taken: the last of it, if it fits."""

    weighed: list[Need]
    available: int
    nearest: list[str] = field(default_factory=list)

    @property
    def taken(self) -> Need | None:
        """The way to go; None where nothing fits."""
        return self.weighed[-1] if self.weighed[-1].peak <= self.available else None

    def to_json(self) -> dict[str, Any]:
        """Plain fields."""
        taken = self.taken
        return {
            "available": self.available,
            "fits": taken is not None,
            "taken": taken.to_json() if taken else {},
            "weighed": [need.to_json() for need in self.weighed],
            "nearest": self.nearest,
        }


class Planner:
    """Weighs ways for one run.

    Args:
        outline: makes a network of the run's shape without numbers. shallow: one of so many blocks and token ids, with numbers.
        begin: a session over such a network, its method attached, with these numbers.
        rows: what is learned. train: derived; the `auto` left in it is what there is to choose.
        full: whether every weight trains, so that the optimiser's state is worth shrinking.
        dtype: of the arithmetic.
        program: bytes of the process without any weights.
    """

    def __init__(
        self,
        *,
        outline: Callable[[], Model],
        shallow: Callable[[int, int], Model],
        begin: Callable[[Model, TrainSpec], Session],
        rows: Rows,
        train: TrainSpec,
        full: bool,
        dtype: torch.dtype,
        program: int,
    ) -> None:
        self.outline, self.shallow, self.begin = outline, shallow, begin
        self.rows, self.train, self.full = rows, train, full
        self.dtype, self.program = dtype, program
        self._heaviest: dict[int, tuple[Pack, int]] = {}
        self._fixed: dict[tuple[Kind, bool], tuple[int, int, int, int, int, int]] = {}

    def plan(self, available: int) -> Plan:
        """Weigh ways, the least costly first, until one fits into `available` bytes."""
        weighed: list[Need] = []
        for way in self.ways():
            weighed.append(self.need(way))
            if weighed[-1].peak <= available:
                break
        smallest = min(weighed, key=lambda need: need.peak)
        return Plan(weighed if weighed[-1].peak <= available else [*(n for n in weighed if n is not smallest), smallest], available)

    def ways(self) -> Iterator[Way]:
        """Every way the Spec leaves open, in the order of what it costs."""
        said, several = self.train, self.train.processes not in ("auto", 1)
        kinds: list[Kind] = ["adamw", "adamw8bit", "layerwise"] if self.full else ["adamw"]
        kinds = [kind for kind in kinds if not (several and kind == "layerwise")]
        kinds = kinds if said.optimiser == "auto" else [said.optimiser]
        again = [False, True] if said.recompute == "auto" else [said.recompute]
        for kind in kinds:
            for recompute in again:
                for budget in self._budgets(kind):
                    yield Way(kind, recompute, budget)

    def _budgets(self, kind: Kind) -> list[int]:
        """Sizes of forests worth weighing: halves, down to what a single row takes anyway."""
        asked = self.train.tokens_per_pack
        if asked != "auto":
            return [asked]
        if kind == "layerwise":
            return [TOKENS_PER_PACK]  # a step is one forest whatever is said
        first = self._usual
        budgets, largest = [first], len(self.heaviest(kind, first)[0].tokens_T)
        for budget in SMALLER:
            if budget < min(largest, first):
                smaller = len(self.heaviest(kind, budget)[0].tokens_T)
                if smaller == largest:
                    break  # a single row
                budgets.append(budget)
                largest = smaller
        return budgets

    @cached_property
    def _usual(self) -> int:
        """Tokens of a forest where memory is no matter; rows are laid out for it, so it is found once for all ways."""
        return usual(self.rows, Order(self.rows, self.train), torch.device("cpu"), parts=self._parts)

    @property
    def _parts(self) -> int:
        return 1 if self.train.processes == "auto" else self.train.processes

    def heaviest(self, kind: Kind, budget: int) -> tuple[Pack, int]:
        """The largest forest of the run, and the most in one step."""
        size = WHOLE_STEP if kind == "layerwise" else budget
        if size not in self._heaviest:
            self._heaviest[size] = heaviest(self.rows, self.train, size, parts=self._parts)
        return self._heaviest[size]

    def need(self, way: Way, *, tokens: int | None = None) -> Need:
        """What one way takes, were its heaviest forest cut to `tokens`."""
        train = self.train.model_copy(update=asdict(way))
        pack, forests = self.heaviest(way.optimiser, way.tokens_per_pack)
        pack = pack.beginning(tokens) if tokens else pack
        gaps = GAPS[self.dtype] + GAPS_MORE[self.dtype] * (min(forests, 8) - 1)
        blocks, vocabulary, weights, trained, moments, gradients = self._count(way.optimiser, several=forests > 1)
        forest: Working = working(
            lambda depth, known: self.begin(self.shallow(depth, known), train), pack, blocks=blocks, vocabulary=vocabulary, forests=forests
        )
        return Need(
            way=way,
            program=self.program + LIBRARIES[self.dtype],
            weights=weights,
            trained=trained,
            moments=moments,
            gradients=gradients,
            activations=forest.activations,
            working=int((1 + gaps) * forest.peak) - forest.activations,
            tokens=len(pack.tokens_T),
            forests=forests,
        )

    def _count(self, kind: Kind, *, several: bool) -> tuple[int, int, int, int, int, int]:
        """Blocks, token ids, and bytes of weights, masters, moments and flat sums."""
        if (kind, several) not in self._fixed:
            model = self.outline()
            blocks, vocabulary = len(model.blocks()), model.vocabulary
            session = self.begin(model, self.train.model_copy(update={"optimiser": kind}))
            flats = session.optimiser.flats
            views = {p for flat in flats if flat.whole for p in flat.spans}
            self._fixed[kind, several] = (
                blocks,
                vocabulary,
                sum(p.nbytes for p in model.network.parameters() if p not in views),
                sum(t.nbytes for flat in flats for t in (flat.master, flat.lower) if t is not None),
                sum(flat.moment_bytes for flat in flats),
                sum(4 * flat.size for flat in flats if flat.whole or (several and any(p.dtype != torch.float32 for p in flat.spans))),
            )
        return self._fixed[kind, several]


def program_bytes(model: Model) -> int:
    """What this process has now beside the weights of `model`, which may lie in mapped files, in memory, or in both."""
    mapped = spans(model.folder)
    inside = sum(span.resident for span in mapped)
    starts = {p.data_ptr(): p.nbytes for p in model.network.parameters()}
    beside = sum(size for start, size in starts.items() if not any(span.start <= start < span.end for span in mapped))
    return resident() - inside - beside
