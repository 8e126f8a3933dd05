"""Full tuning: every weight moves, each part at its own rate if wanted.

Costs about nine times the memory of the weights and gives no way back to the base but loading it again; in return nothing stands
between the examples and the model. It is also how the bundled base was pretrained.

    block_decay: 0.9      the last block learns at the full rate, each one before it at 0.9 of the next, the embedding last of all
    unfreeze: 0.5         only the head and the last block move at first; one block more at a time, all of them after half of the steps

A tied embedding is one tensor with two names; it learns as the embedding.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from torch import Tensor, nn

from luthier.core.spec import Strict
from luthier.methods import _weights
from luthier.methods._groups import ParameterGroup
from luthier.models.model import Model
from luthier.models.slot import slots


class Options(Strict):
    """Settings of full tuning."""

    embedding_rate: float = Field(1.0, gt=0, le=100)
    """The embedding learns so many times as fast as the rest; below 1 it stays nearer to what it was."""
    head_rate: float = Field(1.0, gt=0, le=100)
    """The head, and the norm before it, learn so many times as fast as the rest."""
    block_decay: float = Field(1.0, gt=0, le=1)
    """Each block learns at this share of the rate of the one after it (arXiv 1801.06146, section 3.2, took 1 / 2.6); 1 is all alike."""
    unfreeze: float = Field(0.0, ge=0, lt=1)
    """Share of the steps over which the blocks begin to move, last to first (section 3.3); 0 moves all at once."""


class Method(_weights.Whole):
    """Full tuning."""

    supports = frozenset({"merge", "trees", "fused", "begins-as-base", "whole"})

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()

    def attach(self, model: Model, *, seed: int = 0, name: str = "tuned") -> None:
        """Let every weight move. Nothing here is random."""
        assert not slots(model.network), "full tuning works on a plain network"
        model.network.requires_grad_(True)

    def groups(self, model: Model) -> list[ParameterGroup]:
        """Matrices decay, norms and biases do not (Loshchilov and Hutter, arXiv 1711.05101, as practised since GPT-2)."""
        parts: dict[str, list[tuple[str, nn.Parameter]]] = {}
        place = self._places(model)
        for name, p in _weights.trained(model).items():
            parts.setdefault(f"{place[id(p)]}.{'matrices' if p.ndim >= 2 else 'vectors'}", []).append((name, p))
        return [self._group(model, name, parameters) for name, parameters in parts.items()]

    def _places(self, model: Model) -> dict[int, str]:
        """By identity of a weight, the part of the network it learns with; one part where all are alike."""
        every = model.network.parameters()
        if self.options == Options():
            return {id(p): "full" for p in every}
        blocks = model.blocks()
        found = {id(p): "full.head" for p in every}
        found |= {id(p): f"full.block{number:03d}" for number, block in enumerate(blocks) for p in block.parameters()}
        return found | {id(p): "full.embedding" for module in _weights.embeddings(model) for p in module.parameters()}

    def _group(self, model: Model, name: str, parameters: list[tuple[str, nn.Parameter]]) -> ParameterGroup:
        o, decay, count = self.options, name.endswith("matrices"), len(model.blocks())
        part = name.split(".")[1]
        if part.startswith("block"):
            after = count - 1 - int(part.removeprefix("block"))
            return ParameterGroup(name, parameters, o.block_decay**after, decay, begins=o.unfreeze * after / count)
        if part == "embedding":
            return ParameterGroup(name, parameters, o.embedding_rate * o.block_decay**count, decay, begins=o.unfreeze)
        return ParameterGroup(name, parameters, o.head_rate if part == "head" else 1.0, decay)

    def state(self, model: Model) -> dict[str, Tensor]:
        """The weights, by transformers' names, in the model's number format. Views, not copies."""
        return {name: p.detach() for name, p in model.network.named_parameters()}

    def load_state(self, model: Model, state: dict[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ModelError: names or shapes differ.
        """
        _weights.copy(dict(model.network.named_parameters()), state)

    @classmethod
    def load(cls, model: Model, folder: Path, *, name: str = "tuned") -> Method:
        """Overwrite the weights of `model` with those in `folder`.

        Raises:
            ModelError: they are of another shape, or some are missing.
        """
        method = cls()
        method.attach(model, name=name)
        _weights.overwrite(model, folder)
        return method
