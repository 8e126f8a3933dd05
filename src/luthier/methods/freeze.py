"""Freezing: some of the network's own weights stay, the rest moves. Full tuning in part, at a part of its memory and time.

    frozen: 4                the embedding and the first four blocks stay; the gradient ends there, which saves time too
    frozen: ["*.mlp.*"]      weights whose names match stay
    moving: ["*norm*"]       only weights whose names match move; what is frozen by `frozen` stays all the same

The last quarter of the blocks moves where nothing is said: it reaches nine tenths of full tuning's gain (Lee and others, arXiv 1911.03090,
section 4). A tied embedding is one tensor with two names: whoever freezes one freezes the other.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from luthier.core.errors import SpecError
from luthier.core.spec import Strict
from luthier.methods import _weights
from luthier.methods._groups import ParameterGroup
from luthier.models.model import Model
from luthier.models.slot import slots

SHARE = 0.75
"""Of the blocks that stay where nothing is said."""


class Options(Strict):
    """Settings of freezing."""

    frozen: Annotated[int, Field(ge=0)] | list[str] | Literal["auto"] = "auto"
    """What stays: so many blocks from the embedding on, which stays with them, or patterns of weight names; auto is 3/4 of the blocks."""
    moving: list[str] = Field([])
    """Patterns of the weight names that move; left out, all that are not frozen."""


class Method(_weights.Whole):
    """Full tuning of some weights."""

    supports = frozenset({"merge", "trees", "fused", "begins-as-base", "whole"})

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Let the weights that are not frozen move. Nothing here is random.

        Raises:
            SpecError: a pattern names no weight, there are not so many blocks, or nothing is left to train.
        """
        assert not slots(model.network), "freezing works on a plain network"
        o = self.options
        frozen = _first_blocks(model, o.frozen) if isinstance(o.frozen, int | str) else _matching(model, o.frozen, "frozen")
        moving = _matching(model, o.moving, "moving") if o.moving else {id(p) for p in model.network.parameters()}
        for weight in model.network.parameters():
            weight.requires_grad_(id(weight) in moving - frozen)
        if not model.num_trained:
            raise SpecError(f"method.frozen = {o.frozen!r} leaves nothing to train.", remedy="Freeze less.", code="freeze")

    def groups(self, model: Model) -> list[ParameterGroup]:
        """Matrices decay, norms and biases do not."""
        trained = _weights.trained(model)
        matrices = [(name, p) for name, p in trained.items() if p.ndim >= 2]
        vectors = [(name, p) for name, p in trained.items() if p.ndim < 2]
        groups = [ParameterGroup("freeze.matrices", matrices, decay=True), ParameterGroup("freeze.vectors", vectors)]
        return [group for group in groups if group.parameters]

    def state(self, model: Model) -> dict[str, Tensor]:
        """The weights that move, by transformers' names, in the model's number format. Views, not copies."""
        return {name: p.detach() for name, p in _weights.trained(model).items()}

    def load_state(self, model: Model, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ModelError: names or shapes differ.
        """
        _weights.copy(_weights.trained(model), state)

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Overwrite the weights of `model` with those in `folder`, the frozen ones with what they were.

        Raises:
            ModelError: they are of another shape, or some are missing.
        """
        _weights.overwrite(model, folder)
        method = cls()
        method.attach(model, name=name)
        return method


def _matching(model: Model, patterns: list[str], setting: str) -> set[int]:
    """Identities of the weights so called: by tensor, so that a tied one answers to both of its names."""
    names = list(model.network.named_parameters(remove_duplicate=False))
    found: set[int] = set()
    for pattern in patterns:
        matching = {id(weight) for name, weight in names if fnmatchcase(name, pattern)}
        if not matching:
            raise SpecError(
                f"method.{setting}: no weight is called {pattern!r}.",
                remedy=f"Names look like {names[1][0]}; * stands for anything.",
                code="freeze",
            )
        found |= matching
    return found


def _first_blocks(model: Model, wanted: int | str) -> set[int]:
    blocks = model.blocks()
    count = wanted if isinstance(wanted, int) else int(SHARE * len(blocks))
    if count > len(blocks):
        raise SpecError(
            f"method.frozen = {count}, but the model has {len(blocks)} blocks.", remedy=f"Choose 0 to {len(blocks)}.", code="freeze"
        )
    kept = [*_weights.embeddings(model), *blocks[:count]] if count else []
    return {id(weight) for module in kept for weight in module.parameters()}
